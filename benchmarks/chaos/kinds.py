"""Kinds of fault, each tried once by a function: what it does to an act."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import timedelta
from functools import partial

from benchmarks.chaos import faults
from benchmarks.chaos.campaign import Campaign, Outcome
from benchmarks.chaos.children import KILLED, REFUSED
from benchmarks.chaos.faults import Boundaries, die, no_space
from benchmarks.chaos.places import ServerScene
from benchmarks.chaos.proxy import FAULTS, Strike, told
from benchmarks.chaos.scene import ACTS, ANYONE, LedgerAct, contend

Trial = Callable[[Campaign, LedgerAct], Outcome]
AT_ONCE = 4
"""Processes that promote, approve, roll back and collect together."""
DOWN_S = 2.0
"""How long MLflow's server is down at most; its client tries again for some seconds."""


def killed_at_a_boundary(campaign: Campaign, act: LedgerAct) -> Outcome:
    """Kill the act before or after one of its writes."""
    number = campaign.random.randint(1, campaign.length(act).writes)
    strike = Boundaries(die, number, after=campaign.random.random() < 0.5)
    ended = campaign.in_child(lambda: (strike.watch(), act.do())[0].count)
    return Outcome(ended.code == KILLED, act.allowed(done=ended.code == 0))


def killed_at_a_moment(campaign: Campaign, act: LedgerAct) -> Outcome:
    """Kill the act at a random moment."""
    child = campaign.child(lambda: str(act.do()))
    child.kill_after(campaign.random.uniform(0, campaign.length(act).seconds))
    code = child.end().code
    return Outcome(code == KILLED, act.allowed(done=code == 0))


def store_full(campaign: Campaign, act: LedgerAct) -> Outcome:
    """Let one of its writes fail for want of space."""
    strike = Boundaries(no_space, campaign.random.randint(1, campaign.length(act).writes))
    ended = campaign.in_child(lambda: (strike.watch(), act.do())[0].count)
    return Outcome(ended.code != 0, act.allowed(done=ended.code == 0))


def files_full(campaign: Campaign, act: LedgerAct) -> Outcome:
    """Let no file grow beyond a random size, the registry's database included."""
    most = int(10 ** campaign.random.uniform(1, 6))

    def squeezed() -> object:
        faults.small_files(most)
        return str(act.do())

    code = campaign.in_child(squeezed).code
    return Outcome(code != 0, act.allowed(done=code == 0))


def clock_back(campaign: Campaign, act: LedgerAct) -> Outcome:
    """Set the clock back by up to a year, and kill the act on top."""
    span = timedelta(hours=campaign.random.uniform(1, 9000))
    strike = Boundaries(die, campaign.random.randint(1, 2 * campaign.length(act).writes))

    def turned() -> object:
        faults.turn_back(span)
        strike.watch()
        return str(act.do())

    code = campaign.in_child(turned).code
    return Outcome(True, act.allowed(done=code == 0))


def registry_locked(campaign: Campaign, act: LedgerAct) -> Outcome:
    """Hold the registry's database for up to a second of the act."""
    child = campaign.child(lambda: str(act.do()))
    struck = True
    with closing(sqlite3.connect(campaign.place.database, isolation_level=None)) as other:
        time.sleep(campaign.random.uniform(0, campaign.length(act).seconds))
        other.execute("PRAGMA busy_timeout = 5000")
        try:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(campaign.random.uniform(0.1, 1))
            other.execute("ROLLBACK")
        except sqlite3.OperationalError:
            struck = False
    return Outcome(struck, act.allowed(done=child.end().code == 0))


def registry_lost(campaign: Campaign, act: LedgerAct) -> Outcome:
    """Kill the act, and find the database emptied, or as it was before the act."""
    outcome = killed_at_a_boundary(campaign, act)
    before = campaign.place.database_before
    campaign.place.lose(campaign.random.choice((campaign.empty, before)))
    # Of an operator's move that was lost nobody knows.
    moved = frozenset({3}) if act.name == "reconcile" else frozenset()
    return Outcome(outcome.struck, outcome.allowed | moved)


def at_once(campaign: Campaign, _: LedgerAct) -> Outcome:
    """Promote, approve, roll back and collect at once, and kill one of these processes."""
    children = [campaign.child(partial(contend, number)) for number in range(AT_ONCE)]
    if campaign.random.random() < 0.5:
        campaign.random.choice(children).kill_after(campaign.random.uniform(0, 2))
    for ended in [child.end() for child in children]:
        campaign.check(ended, KILLED)
    return Outcome(True, ANYONE)


def server_killed(campaign: Campaign, act: LedgerAct) -> Outcome:
    """Kill MLflow's server at a random moment of the act, and start it again."""
    server = campaign.place
    assert isinstance(server, ServerScene)  # for mypy: KINDS says so
    child = campaign.child(lambda: str(act.do()))
    time.sleep(campaign.random.uniform(0, campaign.length(act).seconds))
    server.stop()
    time.sleep(campaign.random.uniform(0, DOWN_S))
    server.start()
    ended = child.end()
    return Outcome(ended.code != 0, act.allowed(done=ended.code == 0), _unexpected(ended.code))


def requests_struck(fault: str) -> Trial:
    """Return a kind: up to four requests in a row meet with a fault, from a random one on."""

    def trial(campaign: Campaign, act: LedgerAct) -> Outcome:
        proxy = str(campaign.place.proxy)
        after = campaign.random.randrange(max(1, campaign.length(act).requests))
        told(proxy, Strike(fault, campaign.random.randint(1, 4), after))
        ended = campaign.in_child(lambda: str(act.do()))
        struck = campaign.told_proxy()[1]
        done = act.allowed(done=ended.code == 0)
        return Outcome(struck > 0, done, _unexpected(ended.code))

    return trial


def _unexpected(code: int) -> tuple[str, ...]:
    """Return what is wrong with how an act ended: done, or refused with a sentence of ours."""
    return () if code in (0, REFUSED) else (f"the act ended with {code} and no sentence of ours",)


KILLS: Mapping[str, Trial] = {
    "killed before or after a write": killed_at_a_boundary,
    "killed at a random moment": killed_at_a_moment,
}
RACES: Mapping[str, Trial] = {"promoters, approvers, rollbacks and gc at once": at_once}
OF_A_DATABASE: Mapping[str, Trial] = {
    "the registry's database locked": registry_locked,
    "killed, then an older or empty database": registry_lost,
}
OF_REQUESTS: Mapping[str, Trial] = {
    f"requests meet with: {fault}": requests_struck(fault) for fault in FAULTS
}
KINDS: Mapping[str, Mapping[str, Trial]] = {
    "folder": {
        **KILLS,
        "a write fails: no space": store_full,
        "no file may grow beyond a size": files_full,
        "the clock set back, then killed": clock_back,
        **OF_A_DATABASE,
        **RACES,
    },
    "server": {
        **KILLS,
        **OF_A_DATABASE,
        **OF_REQUESTS,
        "MLflow's server killed, then started again": server_killed,
        **RACES,
    },
    "moto": {**KILLS, **OF_REQUESTS, **RACES},
    "radosgw": {**KILLS, **OF_REQUESTS, **RACES},
}
"""What is tried where."""


def acts_of(kind: str) -> tuple[str, ...]:
    """Return the acts on which a kind is tried: one stands for all where all are at work."""
    return tuple(ACTS)[:1] if kind in RACES else tuple(ACTS)
