"""How long a promotion is until its alias is followed, and how fast a bundle is verified.

The workspace is the embedded one: a folder and SQLite, in a process that is warm.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.orchestration.served import MODEL, REGISTRATION, SPEC
from benchmarks.orchestration.tiny_releases import release_numbered
from infra.canonical import canonical
from infra.releases import write_release
from infra.settings import Settings, use_workspace
from infra.stores import layout
from tasks.promotion import history
from tasks.promotion.acts import promoting
from tasks.promotion.release import GRAPH
from tasks.promotion.verification import require_intact
from tasks.records import ReleaseRef

ROUNDS, QUICK_ROUNDS = 20, 3
BUNDLE_MB, QUICK_MB = 512, 32
GOAL_S, GOAL_SPEED = 1.0, 0.7


@dataclass(frozen=True, slots=True)
class PromotionRow:
    """One measurement."""

    what: str = column("what")
    median: float = column("median", ".3f")
    worst: float = column("worst", ".3f")
    unit: str = column("unit")


def measure(quick: bool) -> ResultTable:
    """Promote one release after the other, and verify a large bundle beside `sha256sum`."""
    rounds, size = (QUICK_ROUNDS, QUICK_MB) if quick else (ROUNDS, BUNDLE_MB)
    with tempfile.TemporaryDirectory() as folder:
        chosen = use_workspace(Path(folder))
        seconds = _promotions(chosen, rounds)
        ours, theirs = _verifications(chosen, size, QUICK_ROUNDS if quick else 7)
    speed = median(theirs) / median(ours)
    rows = [
        PromotionRow("promotion until the alias is read back", median(seconds), max(seconds), "s"),
        PromotionRow(f"a bundle of {size} MB verified", median(ours), max(ours), "s"),
        PromotionRow("`sha256sum` of its files", median(theirs), max(theirs), "s"),
    ]
    goals = [
        Goal("s until the slowest promotion's alias is followed", GOAL_S, max(seconds), "at most"),
        Goal("speed of verification, of sha256sum's", GOAL_SPEED, speed, "at least"),
    ]
    return ResultTable("promotion", "Promotion and verification", rows, goals)


def _promotions(chosen: Settings, rounds: int) -> list[float]:
    """Return how long each took: every byte verified, committed, alias set and read back."""
    store = chosen.store()
    store.put(layout.registration_file(MODEL, REGISTRATION, "spec.yaml"), SPEC.encode())
    store.put(layout.registration_in_use(MODEL), canonical({"version": 1, "digest": REGISTRATION}))
    promoting.promote(release_numbered(chosen, 1), None, "ann", "first")
    seconds = []
    for number in range(2, rounds + 2):
        release, base = release_numbered(chosen, number), history.champion_of(MODEL)
        assert base is not None
        seconds.append(
            _timed(lambda: promoting.promote(release, base.version, "ann", "better"))  # noqa: B023
        )
        if chosen.registry().aliases(MODEL)["champion"] != release.version:
            raise RuntimeError(f"The alias does not show version {release.version}.")
    return seconds


def _verifications(chosen: Settings, size: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return how long a bundle's verification takes, and `sha256sum` of its files, in turns."""
    data = os.urandom(size * 1_000_000)
    release = write_release(chosen.store(), MODEL, {GRAPH: data}, {}, chosen.signer())
    place = chosen.root / "store" / layout.release_file(MODEL, release.digest, "")
    files = [str(path) for path in place.rglob("*") if path.is_file()]
    bundle = ReleaseRef(release.model, "1", release.digest)
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(
            _timed(lambda: subprocess.run(["sha256sum", *files], check=True, capture_output=True))
        )
        ours.append(_timed(lambda: require_intact(bundle)))
    return ours, theirs


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
