"""CPU time of commands on a model whose ledger is long, beside one whose ledger is short.

`python -m benchmarks.orchestration.ledger FOLDER write ENTRIES` writes the workspace of one.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.orchestration.commands import ROOT, run_python
from benchmarks.orchestration.served import MODEL, REGISTRATION, SPEC
from benchmarks.orchestration.tiny_releases import release_numbered
from flows.queries.views import all_models
from flows.reconcile import reconcile
from flows.rollback import rollback
from infra.canonical import Json, canonical, sha256
from infra.run_scope import run_scope
from infra.settings import Settings, use_workspace
from infra.stores import layout
from tasks.promotion import journal
from tasks.promotion.acts.promoting import promote
from tasks.promotion.ledger import EntryKind, body

SHORT, LONG, QUICK_LONG = 10, 5000, 500
"""Entries of the ledgers."""
GOAL = 0.3
"""Seconds of CPU that the long ledger may cost more."""
ROUNDS, QUICK_ROUNDS = 5, 2


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Figures of one command."""

    command: str = column("command")
    short: float = column("CPU s, short ledger", ".3f")  # user and system
    long: float = column("long", ".3f")
    more: float = column("more", ".3f")


def measure(quick: bool) -> ResultTable:
    """Measure status, rollback and reconcile on both ledgers, each in a process that is warm."""
    length, rounds = (QUICK_LONG, QUICK_ROUNDS) if quick else (LONG, ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        short, long = (_measured(Path(folder, str(n)), n, rounds) for n in (SHORT, length))
    rows = [LedgerRow(name, short[name], long[name], long[name] - short[name]) for name in short]
    goals = [Goal(f"{row.command}: CPU s more:", GOAL, row.more, "at most") for row in rows]
    title = f"CPU time on a ledger of {length} entries beside one of {SHORT}: medians of {rounds}"
    return ResultTable("ledger", title, rows, goals)


def _measured(workspace: Path, entries: int, rounds: int) -> Mapping[str, float]:
    """Return the median CPU time of each command, without starting the process."""
    module = ["-m", "benchmarks.orchestration.ledger", str(workspace)]
    run_python(ROOT, workspace, [*module, "write", str(entries)])
    seconds: Mapping[str, float] = json.loads(
        run_python(ROOT, workspace, [*module, "measure", str(rounds)]).output.splitlines()[-1]
    )
    return seconds


def spent(rounds: int) -> Mapping[str, float]:
    """Return the median CPU time of each command in this process, the first round left out."""
    turns: dict[str, list[float]] = {"status": [], "rollback": [], "reconcile": []}
    for turn in range(rounds + 1):
        version = str(1 + turn % 2)
        commands: Mapping[str, Callable[[], object]] = {
            "status": all_models,
            "rollback": partial(rollback.fn, MODEL, "measured", version),
            "reconcile": partial(reconcile.fn, MODEL),
        }
        for name, command in commands.items():
            began = time.process_time()
            command()
            turns[name].append(time.process_time() - began)
    return {name: median(seconds[1:]) for name, seconds in turns.items()}


def prepare(chosen: Settings, entries: int) -> None:
    """Fill this process's empty workspace: two champions, and decisions up to so many entries."""
    store = chosen.store()
    store.put(layout.registration_file(MODEL, REGISTRATION, "spec.yaml"), SPEC.encode())
    store.put(layout.registration_in_use(MODEL), canonical({"version": 1, "digest": REGISTRATION}))
    with run_scope():
        first = release_numbered(chosen, 1)
        promote(first, None, "a person", "the first")
        promote(release_numbered(chosen, 2), first.version, "a person", "the second")
        for number in range(len(journal.read(MODEL)), entries):
            journal.commit(MODEL, _decided, number)


def _decided(_: object, number: int) -> dict[str, Json]:
    """Return a decision as long as those of a real run are."""
    details: dict[str, Json] = {
        "window": sha256(b"%d" % number),
        "action": "keep",
        "reasons": ["Ranges and fidelity are fine: keep."],
        "detectors": dict.fromkeys(("input", "range", "fidelity", "control"), "fine"),
        "figures": {
            name: [f"layer {name}", 0.25, 0.5] for name in ("input", "range", "fidelity", "control")
        },
    }
    return body(EntryKind.DECIDED, actor="schedule", reason="All is fine.", details=details)


if __name__ == "__main__":
    opened = use_workspace(Path(sys.argv[1]))
    if sys.argv[2] == "write":
        prepare(opened, int(sys.argv[3]))
    else:
        print(json.dumps(spent(int(sys.argv[3]))))
