"""Server time of the console's pages where a hundred models have long ledgers and many releases.

`python -m benchmarks.orchestration.console_scale FOLDER MODELS ENTRIES RELEASES` writes the
workspace.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.table import ResultTable, column
from benchmarks.orchestration.commands import ROOT, run_python
from benchmarks.orchestration.console import decided, named_spec
from flows.orchestration.runtime import server, using
from infra.canonical import Json, canonical, sha256
from infra.chain import Chain, Link, _encode
from infra.releases import write_release
from infra.run_scope import run_scope
from infra.settings import Settings, use_workspace
from infra.stores import layout
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body

MODELS = 100
SIZES, QUICK_SIZES = ((100, 10), (1000, 30), (10_000, 100)), ((20, 2),)
"""Entries and releases of each model: the last is 1,000,000 decisions and 10,000 releases."""
QUICK_MODELS = 10
ROUNDS = 5
PAGES = {
    "list of models": "/",
    "one model": "/models/model-000",
    "a version": "/models/model-000/versions/1",
    "rollback": "/models/model-000/rollback",
    "audit of a model, newest page": "/audit?model=model-000",
    "audit of a model, oldest page": "/audit?model=model-000&page=99999999",
    "audit of all models": "/audit",
}

PROGRAM = f"""
import json, resource, sys, time
from statistics import median
from fastapi.testclient import TestClient
from dashboards.console.app import create_app
from infra.access.guard import Guard
from infra.settings import use_workspace
secret = use_workspace(None).secret()
app = Guard(create_app(secret), "console", secret)
key = {{"Authorization": f"Bearer {{secret.key}}"}}
pages = {{}}
with TestClient(app, base_url="http://127.0.0.1:8400", headers=key) as client:
    for page, path in json.loads(sys.argv[1]).items():
        times = []
        for _ in range({ROUNDS} + 1):
            began = time.perf_counter()
            answer = client.get(path)
            times.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
        pages[page] = [times[0], median(times[1:]), len(answer.content) / 1000]
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
print(json.dumps({{"pages": pages, "memory": memory}}))
"""


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """One page of one workspace."""

    decisions: int = column("decisions", ",d")
    releases: int = column("releases", ",d")
    page: str = column("page")
    first: float = column("s, first in a process", ".3f")
    later: float = column("later, median", ".3f")
    size: float = column("kB", ".0f")


def measure(quick: bool, most: int | None = None) -> ResultTable:
    """Write workspaces of rising size, and read each one's pages in a fresh process.

    Args:
        quick: a small workspace alone.
        most: decisions beyond which no larger workspace is written; None for all of them.
    """
    models, sizes = (QUICK_MODELS, QUICK_SIZES) if quick else (MODELS, SIZES)
    rows: list[ScaleRow] = []
    notes: list[str] = []
    for entries, releases in sizes:
        if most is not None and models * entries > most:
            notes.append(f"{models * entries:,d} decisions were left out")
            continue
        found, memory = _measured(models, entries, releases)
        rows += found
        notes.append(f"{models * entries:,d} decisions: the process had {memory:.0f} MB at most")
    title = f"Server time of pages: {models} models"
    return ResultTable("console-scale", title, rows, (), notes)


def _measured(models: int, entries: int, releases: int) -> tuple[list[ScaleRow], float]:
    with tempfile.TemporaryDirectory() as folder:
        module = ["-m", "benchmarks.orchestration.console_scale", folder]
        workspace = Path(folder)
        run_python(ROOT, workspace, [*module, str(models), str(entries), str(releases)])
        chosen = Settings(workspace=workspace)
        with server(chosen, services=False) as address, using(address, chosen.secret().basic):
            printed = run_python(ROOT, workspace, ["-c", PROGRAM, json.dumps(PAGES)]).output
            known = json.loads(printed.splitlines()[-1])
    decisions, of_all = models * entries, models * releases
    rows = [ScaleRow(decisions, of_all, page, *known["pages"][page]) for page in PAGES]
    return rows, known["memory"]


def prepare(chosen: Settings, models: int, entries: int, releases: int) -> None:
    """Fill this process's empty workspace: each model is promoted again and again."""
    for number in range(models):
        with run_scope():
            _model(chosen, f"model-{number:03}", entries, releases)


def _model(chosen: Settings, name: str, entries: int, releases: int) -> None:
    store, spec = chosen.store(), named_spec(name)
    digest = sha256(spec.encode())
    store.put(layout.registration_file(name, digest, "spec.yaml"), spec.encode())
    store.put(layout.registration_in_use(name), canonical({"version": 1, "digest": digest}))
    chain, each = journal.open_journal(name).chain, -(-entries // releases)
    head: Link | None = None
    for number in range(entries):
        version, place = divmod(number, each)
        if place:
            head = _appended(chain, head, decided(number))
            continue
        facts: dict[str, Json] = {
            "recipe": {"name": "int8-max", "weights": {"format": "int8"}},
            "quantized_share": 0.97,
            "verdicts": {"onnxruntime-cpu": "passed"},
        }
        files = {"graph.onnx": f"{name} {version}".encode()}
        release = write_release(store, name, files, facts, chosen.signer())
        named = {"version": str(version + 1), "release": release.digest}
        promoted = body(EntryKind.PROMOTED, actor="Ada", reason="it passed", **named)
        head = _appended(chain, head, promoted)


def _appended(chain: Chain, head: Link | None, entry: Mapping[str, Json]) -> Link:
    """Write the next entry as `append` does, but list no folder for it: nobody else writes here."""
    link = chain._link_after(head, entry)
    chain._create(chain._key(link.number), _encode(link))
    return link


if __name__ == "__main__":
    opened = use_workspace(Path(sys.argv[1]))
    prepare(opened, *map(int, sys.argv[2:]))
