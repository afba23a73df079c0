"""Server time of the console's pages where a hundred models have long ledgers and many releases.

`python -m benchmarks.orchestration.console_scale FOLDER MODELS ENTRIES RELEASES` writes the
workspace.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import quote

from benchmarks.harness.table import ResultTable, column
from benchmarks.orchestration.commands import ROOT, run_python
from benchmarks.orchestration.console import decided, named_spec
from flows.orchestration.runtime import server, using
from infra.canonical import Json, canonical, sha256
from infra.chain import Chain, _encode
from infra.keys.seal import Seal
from infra.releases import write_release
from infra.settings import Settings, use_workspace
from infra.stores import layout
from tasks.promotion.ledger import EntryKind, body

MODELS = 100
SIZES, QUICK_SIZES = ((10, 1), (1000, 30), (10_000, 100)), ((20, 2),)
"""Entries and releases of each model: the last is 1,000,000 entries and 10,000 releases."""
QUICK_MODELS = 10
ROUNDS = 5
PAGES = {
    "list of models": "/",
    "one model": "/models/model-000",
    "a version": "/models/model-000/versions/1",
    "rollback": "/models/model-000/rollback",
    "audit of a model": "/audit?model=model-000",
    "audit of a model, oldest page": "/audit?model=model-000&page=99999999",
    "audit of all models": "/audit",
    "page 1,000": "/audit?page=1000",
    "promotions alone": "/audit?kind=promoted",
    "words in the reason": "/audit?text=PASSED",
    "a day ago": "/audit?at={a_day_ago}",
    "all as CSV": "/audit/export.csv",
}

READ = """
import json, resource, time
from flows.queries.console.indexed import index
from infra.settings import use_workspace
from tasks.specs.registration import model_names
began = time.perf_counter()
read = index.readable(model_names(use_workspace(None).store()), float("inf"))
assert not read.unreadable, read.unreadable
took = time.perf_counter() - began
print(json.dumps([took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000]))
"""
"""Reads and verifies every ledger, as a console does that never ran in its workspace."""
PROGRAM = f"""
import asyncio, json, resource, sys, time
from statistics import median
from fastapi.testclient import TestClient
from dashboards.console.app import create_app
from infra.access.guard import Guard
from infra.settings import use_workspace
secret = use_workspace(None).secret()
app = Guard(create_app(secret), "console", secret)
host, key = "127.0.0.1:8400", f"Bearer {{secret.key}}"
headers = [(b"host", host.encode()), (b"authorization", key.encode())]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
async def size_of(address):  # what a client of the tests would keep is only counted
    path, _, query = address.partition("?")
    scope = dict(type="http", asgi=dict(version="3.0"), http_version="1.1", method="GET",
        scheme="http", path=path, raw_path=path.encode(), query_string=query.encode(),
        root_path="", headers=headers, client=("127.0.0.1", 9), server=("127.0.0.1", 8400))
    sizes, statuses, asked = [], [], [dict(type="http.request", body=b"", more_body=False)]
    async def receive():
        return asked.pop() if asked else await asyncio.Future()
    async def send(message):
        statuses.append(message.get("status", 200))
        sizes.append(len(message.get("body", b"")))
    await app(scope, receive, send)
    assert set(statuses) == {{200}}, address
    return sum(sizes)
pages = {{}}
with TestClient(app, base_url=f"http://{{host}}"):
    for page, path in json.loads(sys.argv[1]).items():
        before, times = peak(), []
        for _ in range({ROUNDS} + 1):
            began = time.perf_counter()
            size = asyncio.run(size_of(path))
            times.append(time.perf_counter() - began)
        pages[page] = [times[0], median(times[1:]), size / 1000, peak() - before]
print(json.dumps({{"pages": pages, "memory": peak()}}))
"""


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """One page of one workspace."""

    entries: int = column("entries", ",d")
    releases: int = column("releases", ",d")
    page: str = column("page")
    first: float = column("s, first in a process", ".3f")
    later: float = column("later, median", ".3f")
    size: float = column("kB", ".0f")
    memory: float = column("MB more at most", ".0f")  # than before the page


def measure(quick: bool, most: int | None = None) -> ResultTable:
    """Write workspaces of rising size, and read each one's pages in a fresh process.

    Args:
        quick: a small workspace alone.
        most: entries beyond which no larger workspace is written; None for all of them.
    """
    models, sizes = (QUICK_MODELS, QUICK_SIZES) if quick else (MODELS, SIZES)
    rows: list[ScaleRow] = []
    notes: list[str] = []
    for entries, releases in sizes:
        if most is not None and models * entries > most:
            notes.append(f"{models * entries:,d} entries were left out")
            continue
        found, note = _measured(models, entries, releases)
        rows += found
        notes.append(note)
    title = f"Server time of pages: {models} models"
    return ResultTable("console-scale", title, rows, (), notes)


def _measured(models: int, entries: int, releases: int) -> tuple[list[ScaleRow], str]:
    with tempfile.TemporaryDirectory() as folder:
        workspace, began = Path(folder), time.perf_counter()
        module = ["-m", "benchmarks.orchestration.console_scale", folder]
        run_python(ROOT, workspace, [*module, str(models), str(entries), str(releases)])
        wrote = time.perf_counter() - began
        took, memory = json.loads(_last_line(workspace, READ))
        chosen = Settings(workspace=workspace)
        with server(chosen, services=False) as address, using(address, chosen.secret().basic):
            known = json.loads(_last_line(workspace, PROGRAM, json.dumps(_pages())))
        index = sum(path.stat().st_size for path in workspace.glob("verified/*.sqlite*"))
    of_all = models * entries
    rows = [ScaleRow(of_all, models * releases, page, *known["pages"][page]) for page in PAGES]
    return rows, (
        f"{of_all:,d} entries: written in {wrote:.0f} s; read and verified for the first time in "
        f"{took:.0f} s, {memory:.0f} MB at most; the console had {known['memory']:.0f} MB at most; "
        f"its index has {index / 1e6:.0f} MB"
    )


def _last_line(workspace: Path, program: str, *arguments: str) -> str:
    return run_python(ROOT, workspace, ["-c", program, *arguments]).output.splitlines()[-1]


def _pages() -> dict[str, str]:
    moment = quote((datetime.now(UTC) - timedelta(days=1)).isoformat())
    return {page: path.format(a_day_ago=moment) for page, path in PAGES.items()}


def prepare(chosen: Settings, models: Sequence[str], entries: int, releases: int) -> None:
    """Fill this process's workspace, where these models are not yet: each is promoted often.

    Entries are made, signed and encoded as the product's are, an hour apart until now; their files
    are written as they are, as nobody else writes here and nothing need survive a power cut.
    """
    for name in models:
        _model(chosen, entries, releases, name)


def _model(chosen: Settings, entries: int, releases: int, name: str) -> None:
    store, spec = chosen.store(), named_spec(name)
    digest = sha256(spec.encode())
    store.put(layout.registration_file(name, digest, "spec.yaml"), spec.encode())
    store.put(layout.registration_in_use(name), canonical({"version": 1, "digest": digest}))
    times = (datetime.now(UTC) - timedelta(hours=ago) for ago in range(entries, 0, -1))
    prefix, seal = layout.ledger(name), Seal(chosen.signer, chosen.verifier)
    chain = Chain(store, prefix, clock=partial(next, times), seal=seal)
    folder = chosen.root / "store" / prefix
    folder.mkdir(parents=True)
    each, head = -(-entries // releases), None
    for number in range(entries):
        version, place = divmod(number, each)
        entry = decided(number) if place else _promoted(chosen, name, version)
        head = chain._link_after(head, entry)
        (folder / f"{head.number:08d}.json").write_bytes(_encode(head))


def _promoted(chosen: Settings, name: str, version: int) -> Mapping[str, Json]:
    """Write a release, and return the entry that it became champion."""
    facts: dict[str, Json] = {
        "recipe": {"name": "int8-max", "weights": {"format": "int8"}},
        "quantized_share": 0.97,
        "verdicts": {"onnxruntime-cpu": "passed"},
    }
    files = {"graph.onnx": f"{name} {version}".encode()}
    release = write_release(chosen.store(), name, files, facts, chosen.signer())
    named = {"version": str(version + 1), "release": release.digest}
    return body(EntryKind.PROMOTED, actor="Ada", reason="it passed", **named)


def _in_parallel(chosen: Settings, models: int, entries: int, releases: int) -> None:
    chosen.signer()  # made once, before the processes that use it
    names, cores = [f"model-{number:03}" for number in range(models)], os.cpu_count() or 1
    with ProcessPoolExecutor(cores, mp_context=get_context("fork")) as pool:
        shares = [names[place::cores] for place in range(cores)]
        for done in [pool.submit(prepare, chosen, share, entries, releases) for share in shares]:
            done.result()


if __name__ == "__main__":
    opened = use_workspace(Path(sys.argv[1]))
    _in_parallel(opened, *map(int, sys.argv[2:]))
