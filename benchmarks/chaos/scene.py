"""A small workspace with a history, and the acts that a fault interrupts.

Versions 1 to 3 were promoted one after the other, version 4 waits for approval, and version 5 was
released and is promoted by one of the acts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from onnx import TensorProto, helper

from flows.reconcile import reconcile
from infra.canonical import Json, canonical, sha256
from infra.errors import Refused
from infra.registry.numbers import Numbers
from infra.releases import write_release
from infra.settings import Settings, settings
from infra.stores import layout
from tasks.promotion import entries, journal
from tasks.promotion.acts import promoting, restoring
from tasks.promotion.ledger import champion, highest_number
from tasks.promotion.projection import show
from tasks.promotion.release import CPU_PLAN, GRAPH
from tasks.promotion.retention.collecting import collect
from tasks.promotion.retention.policy import Policy
from tasks.records import ReleaseRef

MODEL = "tiny"
_SPEC = f"""
version: 1
name: {MODEL}
source: .
task: image-classification
input: {{shape: [1, 8, 8]}}
data: {{calibration: pool.parquet}}
golden: {{cases: golden.parquet}}
budgets: {{latency_ratio: 1.0, size_ratio: 0.5, quality: [{{metric: flips, at_most: 0.05}}]}}
targets: [onnxruntime-cpu]
schedule: {{slug: daily, cron: "15 6 * * *"}}
"""
WAITING, FRESH, NEXT = 4, 5, 6
"""Numbers of the graphs that wait, may be promoted, and are not released yet."""


@dataclass(frozen=True, slots=True)
class LedgerAct:
    """Something that a person, a schedule or a run does."""

    name: str
    do: Callable[[], object]
    champions: frozenset[int]  # numbers of the graphs of which one may serve afterwards
    before: Callable[[Settings, Path], None] | None = None  # what was done to the registry first


def graph(number: int) -> bytes:
    """Return a graph that differs from those of other numbers by its width."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", number]) for name in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"])
    made = helper.make_graph([node], "relu", value[:1], value[1:])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def released(number: int) -> ReleaseRef:
    """Write, sign and register the release of a number; the same again is the same."""
    chosen, data = settings(), graph(number)
    facts: dict[str, Json] = {"verdicts": {"onnxruntime-cpu": "passed"}, "number": number}
    files = {GRAPH: data, CPU_PLAN: data}
    release = write_release(chosen.store(), MODEL, files, facts, chosen.signer())
    version = chosen.registry().register(
        MODEL,
        data,
        release=release.digest,
        tags={},
        run_name=f"release {number}",
        metrics={},
        params={},
        artifacts={},
        numbers=Numbers(highest=highest_number(journal.read(MODEL))),
    )
    return ReleaseRef(release.model, version, release.digest)


def prepare() -> None:
    """Fill this process's empty workspace."""
    store = settings().store()
    digest = sha256(_SPEC.encode())
    store.put(layout.registration_file(MODEL, digest, "spec.yaml"), _SPEC.encode())
    store.put(layout.registration_in_use(MODEL), canonical({"version": 1, "digest": digest}))
    base = None
    for number in (1, 2, 3):
        release = released(number)
        promoting.promote(release, base, "schedule", "it passed")
        base = release.version
    waiting = released(WAITING)
    journal.commit(MODEL, entries.approval_requested, waiting, base, "schedule", "it passed")
    show(MODEL)
    released(FRESH)


def registered(number: int) -> ReleaseRef:
    """Return the release of a number as it was registered."""
    chosen, data = settings(), sha256(graph(number))
    for version in chosen.registry().versions(MODEL):
        if version.release is not None:
            release = chosen.release(MODEL, version.release)
            if release.files[GRAPH].sha256 == data:
                return ReleaseRef(release.model, version.version, release.digest)
    raise LookupError(f"number {number} is not registered")


def _promote() -> None:
    promoting.promote(registered(FRESH), _champions_version(), "schedule", "it passed")


def _champions_version() -> str | None:
    reigning = champion(journal.read(MODEL))
    return reigning.version if reigning else None


def _approve() -> None:
    promoting.answer(MODEL, registered(WAITING).version, True, "ann", "reviewed")


def _roll_back() -> None:
    promoting.roll_back(MODEL, None, "bob", "users complain", "request-of-this-trial")


def _collect() -> None:
    collect(MODEL, Policy(depth=1, age=timedelta(0)), "ann", dry_run=False)


def _restore() -> None:
    restoring.restore(MODEL)
    show(MODEL)


def _moved(chosen: Settings, _: Path) -> None:
    """Let an operator move the alias to an earlier champion."""
    chosen.registry().set_alias(MODEL, "champion", "2")


def _emptied(chosen: Settings, empty: Path) -> None:
    """Lose MLflow's database."""
    shutil.copy(empty, chosen.root / "mlflow.db")


ACTS: Mapping[str, LedgerAct] = {
    act.name: act
    for act in (
        LedgerAct("promotion", _promote, frozenset({3, FRESH})),
        LedgerAct("approval", _approve, frozenset({3, WAITING})),
        LedgerAct("rollback", _roll_back, frozenset({3, 2})),
        LedgerAct("release", lambda: released(NEXT), frozenset({3})),
        LedgerAct("reconcile", lambda: reconcile.fn(MODEL), frozenset({2}), _moved),
        LedgerAct("restore", _restore, frozenset({3}), _emptied),
        LedgerAct("gc", _collect, frozenset({3})),
    )
}


def contend(number: int) -> bool:
    """Promote, approve or roll back with others at once; return whether it was done."""
    acts = (_promote, _approve, _roll_back_again)
    try:
        acts[number % len(acts)]()
    except Refused:  # the champion changed meanwhile, or nothing is left to return to
        return False
    return True


def _roll_back_again() -> None:
    promoting.roll_back(MODEL, None, "bob", "users complain", "")
