"""Trials of each kind of fault, counted: what was tried, how often, and what was lost."""

from __future__ import annotations

import os
import random
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.chaos.children import Child, Ended
from benchmarks.chaos.faults import Boundaries, die
from benchmarks.chaos.judgement import losses
from benchmarks.chaos.places import PLACES
from benchmarks.chaos.proxy import NONE, told
from benchmarks.chaos.scene import ACTS, ANYONE, NEXT, LedgerAct, prepare, released
from benchmarks.chaos.warm import let_go, preload, warm_up
from infra.settings import settings, use_workspace


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one trial, before what it left is judged."""

    struck: bool  # whether the fault came before the act was done
    allowed: frozenset[int]  # numbers of which one may serve now
    wrong: tuple[str, ...] = ()  # what nobody may be told


@dataclass(frozen=True, slots=True)
class Length:
    """How long an act is where nothing goes wrong."""

    writes: int  # to store and registry
    seconds: float
    requests: int  # that the proxy saw


@dataclass
class FaultTally:
    """The trials of one kind."""

    tried: int = 0
    struck: int = 0
    lost: list[str] = field(default_factory=list)


class Campaign:
    """One scene at one place, put back before each trial."""

    def __init__(self, folder: Path, seed: int, place: str = "folder") -> None:
        """Prepare the scene in `folder`; raises `LookupError` where the place cannot be had."""
        preload()
        self.place = PLACES[place](folder)
        self.random = random.Random(seed)  # it chooses moments, and no secret
        self.empty = folder / "empty.db"
        self._folder = folder
        self._lengths: dict[str, Length] = {}
        self.check(self.in_child(_ping))
        shutil.copy(self.place.database, self.empty)
        self.check(self.in_child(prepare))
        self.place.keep()
        self.place.reset()
        warm_up(partial(self._here, _released_and_judged), folder)

    def run(
        self, kind: str, trial: Callable[[Campaign, LedgerAct], Outcome], act: str, trials: int
    ) -> FaultTally:
        """Try one kind of fault on one act so often."""
        tally = FaultTally()
        for _ in range(trials):
            self.length(ACTS[act])
            self._begin(ACTS[act])
            outcome = trial(self, ACTS[act])
            tally.tried += 1
            tally.struck += outcome.struck
            wrong = (*outcome.wrong, *self._judged(outcome.allowed))
            tally.lost += [f"{kind}, {act}, {self.place.name}: {sentence}" for sentence in wrong]
        return tally

    def child(self, work: Callable[[], object]) -> Child:
        """Start work on the scene in a child."""
        return Child(partial(self._here, work))

    def in_child(self, work: Callable[[], object]) -> Ended:
        """Do work on the scene in a child, and wait for it."""
        return self.child(work).end()

    def length(self, act: LedgerAct) -> Length:
        """Return how long the act is; measured once."""
        if act.name not in self._lengths:
            self._begin(act)
            count = Boundaries(die)
            self.told_proxy()
            began = time.monotonic()
            ended = self.in_child(lambda: (count.watch(), act.do())[0].count)
            seconds = time.monotonic() - began
            self.check(ended)
            self._lengths[act.name] = Length(int(ended.said), seconds, self.told_proxy()[0])
        return self._lengths[act.name]

    def told_proxy(self) -> tuple[int, int]:
        """Return what the proxy saw and struck, and let everything pass."""
        return told(self.place.proxy, NONE) if self.place.proxy else (0, 0)

    def check(self, ended: Ended, *also: int) -> None:
        """Raise `RuntimeError` for a child that ended as none should."""
        if ended.code not in (0, *also):
            raise RuntimeError(f"A child ended with {ended.code}: {ended.said}")

    def _begin(self, act: LedgerAct) -> None:
        self.place.reset()
        if act.before is not None:
            self.check(self._apart(partial(act.before, partial(self.place.lose, self.empty))))

    def _here(self, work: Callable[[], object]) -> object:
        os.environ.update(self.place.environment)
        use_workspace(self.place.live)
        return work()

    def _judged(self, allowed: frozenset[int]) -> list[str]:
        ended = self._apart(partial(losses, allowed))
        if ended.code != 0:
            return [f"nothing could be judged: {str(ended.said)[-2000:]}"]
        return list(ended.said)

    def _apart(self, work: Callable[[], object]) -> Ended:
        """Do work of which nothing is left here: in a folder without a child, at half the cost."""
        if self.place.proxy:
            return self.in_child(work)
        try:
            return Ended(0, self._here(work))
        except Exception:
            return Ended(1, traceback.format_exc())
        finally:
            let_go(self._folder)


def _released_and_judged() -> None:
    released(NEXT)
    losses(ANYONE)


def _ping() -> None:
    settings().registry().ping()
