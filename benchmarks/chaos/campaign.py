"""Trials of each kind of fault, counted: what was tried, how often, and what was lost."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

from benchmarks.chaos import faults
from benchmarks.chaos.children import KILLED, Child, Ended, in_child
from benchmarks.chaos.faults import Boundaries, die, no_space
from benchmarks.chaos.judgement import losses
from benchmarks.chaos.scene import ACTS, FRESH, NEXT, WAITING, LedgerAct, contend, prepare, released
from benchmarks.chaos.warm import preload, warm_up
from infra.settings import settings, use_workspace

AT_ONCE = 4
"""Processes that promote, approve, roll back and collect together."""
ANYONE = frozenset({1, 2, 3, WAITING, FRESH})


@dataclass
class FaultTally:
    """The trials of one kind."""

    tried: int = 0
    struck: int = 0  # in which the fault came before the act was done
    lost: list[str] = field(default_factory=list)


class Campaign:
    """One workspace at one path, put back before each trial."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Prepare the scene in `folder`."""
        self._folder = folder
        self._live, self._kept = folder / "live", folder / "kept"
        self._random = random.Random(seed)  # it chooses moments, and no secret
        self._lengths: dict[str, tuple[int, float]] = {}
        self._empty = folder / "empty.db"
        preload()
        self._check(in_child(partial(self._at, self._folder / "blank", _ping)))
        shutil.copy(self._folder / "blank" / "mlflow.db", self._empty)
        self._check(in_child(partial(self._at, self._live, prepare)))
        self._live.rename(self._kept)
        self._reset()
        warm_up(partial(self._at, self._live, _released_and_judged), folder)

    def run(self, kind: str, act: str, trials: int) -> FaultTally:
        """Try one kind of fault on one act so often."""
        trial = KINDS[kind]
        tally = FaultTally()
        for _ in range(trials):
            self._reset()
            chosen = ACTS[act]
            if chosen.before is not None:
                self._check(in_child(partial(self._at, self._live, self._before(chosen))))
            struck, allowed = trial(self, chosen)
            tally.tried += 1
            tally.struck += struck
            tally.lost += self._judged(kind, act, allowed)
        return tally

    def killed_at_a_boundary(self, act: LedgerAct) -> tuple[bool, frozenset[int]]:
        """Kill the act before or after one of its writes."""
        writes, _ = self._length(act)
        strike = Boundaries(die, self._random.randint(1, writes), after=self._random.random() < 0.5)
        ended = in_child(partial(self._at, self._live, lambda: (strike.watch(), act.do())[0].count))
        return ended.code == KILLED, act.champions

    def killed_at_a_moment(self, act: LedgerAct) -> tuple[bool, frozenset[int]]:
        """Kill the act at a random moment."""
        _, seconds = self._length(act)
        child = Child(partial(self._at, self._live, lambda: str(act.do())))
        child.kill_after(self._random.uniform(0, seconds))
        return child.end().code == KILLED, act.champions

    def store_full(self, act: LedgerAct) -> tuple[bool, frozenset[int]]:
        """Let one of its writes fail for want of space."""
        writes, _ = self._length(act)
        strike = Boundaries(no_space, self._random.randint(1, writes))
        ended = in_child(partial(self._at, self._live, lambda: (strike.watch(), act.do())[0].count))
        return ended.code != 0, act.champions

    def files_full(self, act: LedgerAct) -> tuple[bool, frozenset[int]]:
        """Let no file grow beyond a random size, the registry's database included."""
        most = int(10 ** self._random.uniform(1, 6))

        def squeezed() -> object:
            faults.small_files(most)
            return str(act.do())

        return in_child(partial(self._at, self._live, squeezed)).code != 0, act.champions

    def clock_back(self, act: LedgerAct) -> tuple[bool, frozenset[int]]:
        """Set the clock back by up to a year, and kill the act on top."""
        span = timedelta(hours=self._random.uniform(1, 9000))
        writes, _ = self._length(act)
        strike = Boundaries(die, self._random.randint(1, 2 * writes))

        def turned() -> object:
            faults.turn_back(span)
            strike.watch()
            return str(act.do())

        in_child(partial(self._at, self._live, turned))
        return True, act.champions

    def registry_locked(self, act: LedgerAct) -> tuple[bool, frozenset[int]]:
        """Hold the registry's database for up to two seconds of the act."""
        child = Child(partial(self._at, self._live, lambda: str(act.do())))
        with closing(sqlite3.connect(self._live / "mlflow.db", isolation_level=None)) as other:
            time.sleep(self._random.uniform(0, self._length(act)[1]))
            other.execute("PRAGMA busy_timeout = 5000")
            try:
                other.execute("BEGIN EXCLUSIVE")
                time.sleep(self._random.uniform(0.1, 2))
                other.execute("ROLLBACK")
            except sqlite3.OperationalError:
                child.end()
                return False, act.champions
        child.end()
        return True, act.champions

    def registry_lost(self, act: LedgerAct) -> tuple[bool, frozenset[int]]:
        """Kill the act, and find the database emptied, or as it was before the act."""
        struck, allowed = self.killed_at_a_boundary(act)
        older = self._random.choice((self._empty, self._kept / "mlflow.db"))
        for suffix in ("-wal", "-shm"):
            (self._live / f"mlflow.db{suffix}").unlink(missing_ok=True)
        shutil.copy(older, self._live / "mlflow.db")
        return struck, allowed | ({3} if act.name == "reconcile" else frozenset())

    def at_once(self, _: LedgerAct) -> tuple[bool, frozenset[int]]:
        """Promote, approve, roll back and collect at once, and kill one of these processes."""
        children = [
            Child(partial(self._at, self._live, partial(contend, number)))
            for number in range(AT_ONCE)
        ]
        if self._random.random() < 0.5:
            self._random.choice(children).kill_after(self._random.uniform(0, 2))
        codes = [child.end() for child in children]
        for ended in codes:
            self._check(ended, KILLED)
        return True, ANYONE

    def _length(self, act: LedgerAct) -> tuple[int, float]:
        """Return how many writes the act makes, and how many seconds it takes."""
        if act.name not in self._lengths:
            count = Boundaries(die)
            began = time.monotonic()
            watched = in_child(
                partial(self._at, self._live, lambda: (count.watch(), act.do())[0].count)
            )
            self._check(watched)
            self._lengths[act.name] = int(watched.said), time.monotonic() - began
            self._reset()
            if act.before is not None:
                self._check(in_child(partial(self._at, self._live, self._before(act))))
        return self._lengths[act.name]

    def _before(self, act: LedgerAct) -> Callable[[], None]:
        def done() -> None:
            if act.before is not None:
                act.before(settings(), self._empty)

        return done

    def _judged(self, kind: str, act: str, allowed: frozenset[int]) -> list[str]:
        ended = in_child(partial(self._at, self._live, partial(losses, allowed)))
        if ended.code != 0:
            return [f"{kind}, {act}: nothing could be judged: {str(ended.said)[-2000:]}"]
        return [f"{kind}, {act}: {loss}" for loss in ended.said]

    def _reset(self) -> None:
        shutil.rmtree(self._live, ignore_errors=True)
        shutil.copytree(self._kept, self._live)

    def _at(self, workspace: Path, work: Callable[[], object]) -> object:
        use_workspace(workspace)
        return work()

    def _check(self, ended: Ended, *also: int) -> None:
        if ended.code not in (0, *also):
            raise RuntimeError(f"A child ended with {ended.code}: {ended.said}")


def _released_and_judged() -> None:
    released(NEXT)
    losses(ANYONE)


def _ping() -> None:
    settings().registry().ping()


Trial = Callable[[Campaign, LedgerAct], tuple[bool, frozenset[int]]]
KINDS: Mapping[str, Trial] = {
    "killed before or after a write": Campaign.killed_at_a_boundary,
    "killed at a random moment": Campaign.killed_at_a_moment,
    "a write fails: no space": Campaign.store_full,
    "no file may grow beyond a size": Campaign.files_full,
    "the clock set back, then killed": Campaign.clock_back,
    "the registry's database locked": Campaign.registry_locked,
    "killed, then an older or empty database": Campaign.registry_lost,
    "promoters, approvers, rollbacks and gc at once": Campaign.at_once,
}
ALONE = ("promoters, approvers, rollbacks and gc at once",)
"""Kinds that are tried on no single act."""
