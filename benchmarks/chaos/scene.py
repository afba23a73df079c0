"""A small workspace with a history, and the acts that a fault interrupts.

Versions 1 to 3 were promoted one after the other, version 4 waits for approval, and version 5 was
released and is promoted by one of the acts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from benchmarks.orchestration.served import MODEL, SPEC
from benchmarks.orchestration.tiny_releases import numbered_graph, release_numbered
from flows.reconcile import reconcile
from infra.canonical import canonical, sha256
from infra.errors import NotFound, Refused
from infra.settings import settings
from infra.stores import layout
from tasks.promotion import entries, journal
from tasks.promotion.acts import promoting, restoring
from tasks.promotion.ledger import champion
from tasks.promotion.projection import show
from tasks.promotion.release import GRAPH
from tasks.promotion.retention import shared_weights
from tasks.promotion.retention.collecting import collect
from tasks.promotion.retention.policy import Policy
from tasks.records import ReleaseRef

WAITING, FRESH, NEXT = 4, 5, 6
"""Numbers of the graphs that wait, may be promoted, and are not released yet."""
SHARED, UNNAMED = np.arange(4, dtype=np.float32), np.arange(5, dtype=np.float32)
"""Weights in files: one that a registration names, and one that nothing does."""
ANYONE = frozenset({1, 2, 3, WAITING, FRESH})


@dataclass(frozen=True, slots=True)
class LedgerAct:
    """Something that a person, a schedule or a run does."""

    name: str
    do: Callable[[], object]
    champions: frozenset[int]  # numbers of the graphs of which one may serve afterwards
    done: int  # the number that serves once it was done
    before: Callable[[Callable[[], None]], None] | None = None
    # What was done to the registry first, given what empties it.

    def allowed(self, *, done: bool) -> frozenset[int]:
        """Return the numbers of which one may serve; whoever was told that it is done finds so."""
        return frozenset({self.done}) if done else self.champions


def released(number: int) -> ReleaseRef:
    """Write, sign and register the release of a number; the same again is the same."""
    return release_numbered(settings(), number)


def prepare() -> None:
    """Fill this process's empty workspace."""
    store = settings().store()
    digest = sha256(SPEC.encode())
    store.put(layout.registration_file(MODEL, digest, "spec.yaml"), SPEC.encode())
    store.put(layout.registration_in_use(MODEL), canonical({"version": 1, "digest": digest}))
    weights = settings().weights()
    named, unnamed = (weights.keep(values) for values in (SHARED, UNNAMED))
    weights.publish([named, unnamed])
    store.put(layout.registration_file(MODEL, digest, "reference.onnx"), named.encode())
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
    chosen, data = settings(), sha256(numbered_graph(number))
    for version in chosen.registry().versions(MODEL):
        if version.release is None:
            continue
        with contextlib.suppress(NotFound):  # a collection at once may take a bundle
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
    shared_weights.YOUNGEST = timedelta(0)  # in this child: all of the scene is young
    shared_weights.collect_weights(timedelta(0), dry_run=False)


def _restore() -> None:
    restoring.restore(MODEL)
    show(MODEL)


def _moved(_: Callable[[], None]) -> None:
    """Let an operator move the alias to an earlier champion."""
    settings().registry().set_alias(MODEL, "champion", "2")


def _emptied(empty: Callable[[], None]) -> None:
    """Lose MLflow's database."""
    empty()


ACTS: Mapping[str, LedgerAct] = {
    act.name: act
    for act in (
        LedgerAct("promotion", _promote, frozenset({3, FRESH}), FRESH),
        LedgerAct("approval", _approve, frozenset({3, WAITING}), WAITING),
        LedgerAct("rollback", _roll_back, frozenset({3, 2}), 2),
        LedgerAct("release", lambda: released(NEXT), frozenset({3}), 3),
        LedgerAct("reconcile", lambda: reconcile.fn(MODEL), frozenset({2}), 2, _moved),
        LedgerAct("restore", _restore, frozenset({3}), 3, _emptied),
        LedgerAct("gc", _collect, frozenset({3}), 3),
    )
}


def contend(number: int) -> bool:
    """Promote, approve, roll back or collect with others at once; return whether it was done."""
    acts = (_promote, _approve, _roll_back_again, _collect)
    try:
        acts[number % len(acts)]()
    except (Refused, LookupError):  # the champion changed meanwhile, or nothing is left of it
        return False
    return True


def _roll_back_again() -> None:
    promoting.roll_back(MODEL, None, "bob", "users complain", "")
