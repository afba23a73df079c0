"""What keeps the loop from thrashing: confirmation, cooldown and a build budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tasks.drift.decision import health_of, recalibrates
from tasks.records import Action, Decision, Health, PastDecision

_ACTING = {
    Action.RECALIBRATE: ("range", "fidelity", "weights"),
    Action.REQUEST_RETRAINING: ("control",),
}
_SURE = frozenset({"weights"})
"""A digest needs no second look."""


@dataclass(frozen=True, slots=True)
class Restraint:
    """How much the loop may do by itself."""

    confirm: int = 1  # windows out of `of` in which a detector must have degraded
    of: int = 1
    cooldown: int = 1  # windows after a build without another
    builds: int = 8
    days: float = 7.0  # in which so many builds may start, in traffic time


@dataclass(frozen=True, slots=True)
class State:
    """Where cooldown and budget stand before a decision."""

    waits: int  # windows of the cooldown that are left
    spent: int  # builds of the period
    text: str  # one sentence


def restrained(
    decision: Decision,
    past: Sequence[PastDecision],
    rules: Restraint,
    *,
    end: datetime | None,
    champion: str,
    source: str,
) -> Decision:
    """Return the decision as it may be acted on.

    Safety is never held back. Otherwise a detector must have degraded in `confirm` of the last `of`
    windows of this champion, and a build must fall neither into the cooldown nor over the budget.
    Other weights are exempt from the cooldown once: a champion that was built from them has nothing
    to wait for. What is held back becomes `hold`; a request for retraining is still made, and only
    its build is held.

    Args:
        decision: By the table.
        past: The decisions before, oldest first, without this window.
        rules: How much the loop may do by itself.
        end: Of the window, in traffic time.
        champion: Version.
        source: Digest of the full-precision graph.
    """
    if decision.action not in _ACTING:
        return decision
    unconfirmed = _unconfirmed(decision, past, rules, champion)
    if unconfirmed:
        return _hold(decision, unconfirmed)
    if not recalibrates(decision):
        return decision
    why = _blocked(decision, past, rules, end, source)
    if not why:
        return decision
    return (
        _hold(decision, why)
        if decision.action is Action.RECALIBRATE
        else replace(decision, held=why)
    )


def state(past: Sequence[PastDecision], rules: Restraint, end: datetime | None) -> State:
    """Return cooldown and budget, for a decision about a window that ends then."""
    since = next((place for place, item in enumerate(reversed(past)) if item.builds), None)
    waits = max(0, rules.cooldown - since) if since is not None else 0
    spent = sum(item.builds and _within(item, rules, end) for item in past)
    cooling = f"cooling down for {waits} more {_windows(waits)}" if waits else "no cooldown"
    return State(
        waits,
        spent,
        f"{cooling}; {spent} of {rules.builds} builds in {rules.days:g} days are spent",
    )


def _unconfirmed(
    decision: Decision, past: Sequence[PastDecision], rules: Restraint, champion: str
) -> str:
    """Return why the loop waits for another window; "" when a detector that asks is confirmed."""
    before = (
        [item for item in past if item.champion == champion][-(rules.of - 1) :]
        if rules.of > 1
        else []
    )
    counts = {
        detector: 1 + sum(item.health.get(detector) is Health.DEGRADED for item in before)
        for detector in _ACTING[decision.action]
        if health_of(detector, decision.results) is Health.DEGRADED
    }
    if any(detector in _SURE or count >= rules.confirm for detector, count in counts.items()):
        return ""
    detector = max(counts, key=lambda name: counts[name])
    return (
        f"{detector} degraded in {counts[detector]} of the last {rules.of} windows, "
        f"and {rules.confirm} are needed"
    )


def _blocked(
    decision: Decision,
    past: Sequence[PastDecision],
    rules: Restraint,
    end: datetime | None,
    source: str,
) -> str:
    now = state(past, rules, end)
    if now.spent >= rules.builds:
        return f"the build budget is spent ({now.spent} of {rules.builds} in {rules.days:g} days)"
    changed = health_of("weights", decision.results) is Health.DEGRADED
    tried = any(item.builds and item.source == source for item in past)
    if now.waits and not (changed and not tried):
        return (
            f"a build was started within the last {rules.cooldown} "
            f"{_windows(rules.cooldown)} (cooldown)"
        )
    return ""


def _hold(decision: Decision, why: str) -> Decision:
    wanted = decision.reasons[0].rstrip(".")
    headline = f"{wanted}; but {why}: hold."
    return replace(
        decision, action=Action.HOLD, held=why, reasons=(headline, *decision.reasons[1:])
    )


def _within(item: PastDecision, rules: Restraint, end: datetime | None) -> bool:
    return end is None or item.end is None or item.end > end - timedelta(days=rules.days)


def _windows(count: int) -> str:
    return "window" if count == 1 else "windows"
