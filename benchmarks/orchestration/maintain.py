"""A quiet maintenance run and a first champion of the digits, beside an earlier commit's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.orchestration.commands import ROOT, Spent, run_python, unpack
from infra.settings import Settings
from infra.stores import ObjectStore
from tasks.models.corpus import read_corpus
from tasks.records import Request
from tasks.traffic.storage.parts import write_traffic

BASE = "779e610"
"""The last commit whose steps opened model, release and window each for itself."""
MODEL = "digits"
EXAMPLE = ROOT / "examples" / MODEL
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
EXPOSURES = (0.5, 1.0)
TENANTS = 5
FIRST, QUIET = "first champion", "quiet maintain"
ENDS = {FIRST: "promoted", QUIET: "kept"}
GOAL = 0.5
ROUNDS, QUICK_ROUNDS = 5, 1


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one kind of run."""

    run: str = column("run")
    cpu_before: float = column("CPU s, before", ".2f")  # with processes waited for
    cpu: float = column("now", ".2f")
    cpu_ratio: float = column("ratio", ".3f")
    wall_before: float = column("wall s, before", ".2f")
    wall: float = column("now", ".2f")
    wall_ratio: float = column("ratio", ".3f")


def measure(quick: bool, base: str = BASE) -> ResultTable:
    """Measure this checkout beside the commit `base`, in turns.

    Raises `ValueError` for an unknown commit, and `RuntimeError` when a run ends otherwise than it
    should.
    """
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder, "earlier")
        unpack(base, earlier)
        return compare(earlier, Path(folder), QUICK_ROUNDS if quick else ROUNDS, base)


def compare(earlier: Path, folder: Path, rounds: int, base: str) -> ResultTable:
    """Return the medians of `rounds` rounds, in each of which both checkouts live two days."""
    before: list[dict[str, Spent]] = []
    now: list[dict[str, Spent]] = []
    for number in range(rounds):
        before.append(live(earlier, folder / f"before-{number}"))
        now.append(live(ROOT, folder / f"now-{number}"))
    rows = [
        _row(run, [spent[run] for spent in before], [spent[run] for spent in now]) for run in ENDS
    ]
    goal = Goal(f"{QUIET}: CPU time over that before", GOAL, rows[-1].cpu_ratio, "at most")
    title = f"Maintenance of {MODEL} beside {base}: medians of {rounds} rounds, in turns"
    return ResultTable("maintain", title, rows, [goal])


def live(checkout: Path, workspace: Path) -> dict[str, Spent]:
    """Register the example in a new workspace; run on a first window, then on one like it."""
    run_python(
        checkout, workspace, ["-m", "flows.cli", "model", "add", str(EXAMPLE / "model.yaml")]
    )
    spent = {}
    for day, run in enumerate(ENDS):
        serve(Settings(workspace=workspace).store(), day)
        spent[run] = run_python(
            checkout, workspace, ["-m", "flows.cli", "maintain", MODEL, "--json"]
        )
        status = json.loads(spent[run].output)["status"]
        if status != ENDS[run]:
            raise RuntimeError(f"the {run} ended as {status} in {checkout}: {spent[run].output}")
    return spent


def serve(store: ObjectStore, day: int) -> None:
    """Write one day of the example's images at two exposures."""
    rng = np.random.default_rng(day)
    images = read_corpus((EXAMPLE / "traffic.parquet").read_bytes(), where="traffic")
    exposures = rng.choice(EXPOSURES, len(images))
    write_traffic(
        store,
        MODEL,
        [
            _served(*image, day, number)
            for number, image in enumerate(zip(images, exposures, strict=True))
        ],
    )


def _served(image: Request, exposure: float, day: int, number: int) -> Request:
    return replace(
        image,
        request_id=f"{day}-{number}",
        tenant=f"t{number % TENANTS}",
        time=START + timedelta(days=2 * day, minutes=number),
        payload=np.asarray(image.payload, np.float32) * np.float32(exposure),
        domain=f"exposure-{exposure:g}",
    )


def _row(run: str, before: Sequence[Spent], now: Sequence[Spent]) -> Row:
    cpu = median(spent.cpu for spent in before), median(spent.cpu for spent in now)
    wall = median(spent.wall for spent in before), median(spent.wall for spent in now)
    return Row(run, *cpu, cpu[1] / cpu[0], *wall, wall[1] / wall[0])
