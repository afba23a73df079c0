"""Server time of the console's first pages, beside an earlier commit's, on one workspace.

`python -m benchmarks.orchestration.console FOLDER MODELS ENTRIES` writes the workspace.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.orchestration.commands import PACKAGES, ROOT, run_python, unpack
from benchmarks.orchestration.served import DETECTORS, SPEC, START
from flows.orchestration.runtime import server, using
from infra.canonical import Json, canonical, sha256
from infra.releases import write_release
from infra.settings import Settings, use_workspace
from infra.stores import layout
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body
from tasks.records import STORED_DETECTORS

BASE = "d5bea46"
"""The last commit whose console read every ledger anew for every page."""
MODELS, QUICK_MODELS = 20, 3
ENTRIES, QUICK_ENTRIES = 200, 40
ROUNDS, QUICK_ROUNDS = 7, 2
GOAL = 0.2
FIRST_S = 0.150
"""What the list of models may take."""
LARGEST = 300_000
"""Bytes that a model's page may have, without plots."""
PROGRAM = """
import json, sys, time
from statistics import median
from fastapi.testclient import TestClient
from dashboards.console.app import create_app
from infra.access.guard import Guard
from infra.settings import use_workspace
secret = use_workspace(None).secret()
app = Guard(create_app(secret), "console", secret)
key = {"Authorization": f"Bearer {secret.key}"}
with TestClient(app, base_url="http://127.0.0.1:8400", headers=key) as client:
    pages = {"/": [], "/models/model-00": []}
    time.sleep(5)
    for _ in range(int(sys.argv[1])):
        for page, times in pages.items():
            began = time.perf_counter()
            answer = client.get(page)
            times.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
            assert "did not" not in answer.text, answer.text
            size = len(answer.content)
        time.sleep(0.5)
    print(json.dumps({page: [times[0], median(times[1:])] for page, times in pages.items()}
        | {"bytes": [size, size]}))
"""


@dataclass(frozen=True, slots=True)
class PageRow:
    """Server time of one page."""

    page: str = column("page")
    before: float = column("s, before", ".3f")
    now: float = column("now", ".3f")
    ratio: float = column("ratio", ".3f")


def measure(quick: bool, base: str = BASE) -> ResultTable:
    """Measure this checkout's console beside that of the commit `base`.

    Both ask a real Prefect server which has a deployment a model. A process of each answers its
    first request, and the median of those after it.

    Raises:
        ValueError: for an unknown commit.
    """
    models, entries = (QUICK_MODELS, QUICK_ENTRIES) if quick else (MODELS, ENTRIES)
    with tempfile.TemporaryDirectory() as folder:
        workspace, earlier = Path(folder, "workspace"), Path(folder, "earlier")
        unpack(base, earlier, (*PACKAGES, "dashboards"))
        written = ["-m", "benchmarks.orchestration.console", str(workspace)]
        run_python(ROOT, workspace, [*written, str(models), str(entries)])
        chosen = Settings(workspace=workspace)
        with server(chosen, services=False) as address, using(address, chosen.secret().basic):
            run_python(ROOT, workspace, [*written, "deploy"])
            rounds = str(QUICK_ROUNDS if quick else ROUNDS)
            before, now = (
                json.loads(run_python(checkout, workspace, ["-c", PROGRAM, rounds]).output)
                for checkout in (earlier, ROOT)
            )
    return _table(before, now, models, entries)


def _table(
    before: Mapping[str, Sequence[float]],
    now: Mapping[str, Sequence[float]],
    models: int,
    entries: int,
) -> ResultTable:
    rows = [
        PageRow(f"{name}, {when}", before[page][place], now[page][place], ratio)
        for page, name in (("/", "list of models"), ("/models/model-00", "one model"))
        for place, when in enumerate(("first", "median of later ones"))
        for ratio in (now[page][place] / before[page][place],)
    ]
    goals = [
        Goal("list of models, later: fraction of before:", GOAL, rows[1].ratio, "at most"),
        Goal("list of models, later: s:", FIRST_S, rows[1].now, "at most"),
        Goal("one model: bytes:", LARGEST, now["bytes"][0], "at most"),
    ]
    title = f"Server time of pages: {models} models of {entries} entries each"
    return ResultTable("console", title, rows, goals)


def prepare(chosen: Settings, models: int, entries: int) -> None:
    """Fill this process's empty workspace."""
    for number in range(models):
        _model(chosen, f"model-{number:02}", entries)


def deploy() -> None:
    """Apply every model's deployment, as `requant up` does."""
    from flows.deployments import maintenance_deployment
    from tasks.specs.registration import model_names

    for name in model_names(use_workspace(None).store()):
        deployment = maintenance_deployment(name)
        if deployment is not None:
            deployment.apply()


def named_spec(name: str) -> str:
    """Return the spec of a model of that name."""
    return SPEC.replace("name: tiny", f"name: {name}")


def _model(chosen: Settings, name: str, entries: int) -> None:
    """Register a model with a champion and decisions about a window a day."""
    spec = named_spec(name)
    store, digest = chosen.store(), sha256(spec.encode())
    store.put(layout.registration_file(name, digest, "spec.yaml"), spec.encode())
    store.put(layout.registration_in_use(name), canonical({"version": 1, "digest": digest}))
    facts: dict[str, Json] = {
        "recipe": {"name": "int8-max", "weights": {"format": "int8"}},
        "quantized_share": 0.97,
        "verdicts": {"onnxruntime-cpu": "passed"},
    }
    release = write_release(store, name, {"graph.onnx": name.encode()}, facts, chosen.signer())
    promoted = body(
        EntryKind.PROMOTED, actor="Ada", reason="it passed", version="1", release=release.digest
    )
    chain = journal.open_journal(name).chain
    chain.append(promoted)
    for day in range(entries - 1):
        chain.append(decided(day), expect=day + 1)


def decided(day: int) -> dict[str, Json]:
    """Return a decision as long as those of a real run are."""
    degraded = day % 9 == 8
    end = START + timedelta(days=day + 1)
    details: dict[str, Json] = {
        "window": sha256(b"%d" % day),
        "sample": f"windows/tiny/{sha256(b'%d' % day)}.parquet",
        "rows": 256,
        "start": (end - timedelta(days=1)).isoformat(),
        "end": end.isoformat(),
        "action": "recalibrate" if degraded else "keep",
        "reasons": ["Ranges and fidelity are fine: keep."],
        STORED_DETECTORS: dict.fromkeys(DETECTORS, "degraded" if degraded else "fine"),
        "exceeded": {name: [f"layer {n}" for n in range(20 * degraded)] for name in DETECTORS},
        "figures": {name: ["all", 0.98 + day * 7 % 11 / 1000, 0.95] for name in DETECTORS},
    }
    return body(EntryKind.DECIDED, actor="schedule", reason="All is fine.", details=details)


if __name__ == "__main__":
    opened = use_workspace(Path(sys.argv[1]))
    if sys.argv[2] == "deploy":
        deploy()
    else:
        prepare(opened, int(sys.argv[2]), int(sys.argv[3]))
