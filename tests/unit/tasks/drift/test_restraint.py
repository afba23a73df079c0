"""The loop does not thrash: cooldown, budget and confirmation hold it back, and say so."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tasks.drift.attribution import Cause, attribute
from tasks.drift.decision import DETECTORS, decide, recalibrates
from tasks.drift.detectors.weights import judge_weights
from tasks.drift.restraint import Restraint, restrained
from tasks.records import Action, Decision, DetectorResult, Finding, Health, PastDecision

START = datetime(2026, 1, 5, tzinfo=UTC)
FINE, DEGRADED = Health.FINE, Health.DEGRADED


def results(**health: Health) -> list[DetectorResult]:
    whole = {**dict.fromkeys(DETECTORS, FINE), **health}
    return [
        DetectorResult(detector, one, (Finding(detector, 0.6, 0.5, False, "x"),), 9)
        for detector, one in whole.items()
    ]


def played(days: list[bool], rules: Restraint, detector: str = "range") -> list[Decision]:
    """Play one window a day; True: the detector degraded."""
    past: list[PastDecision] = []
    decisions = []
    for day, down in enumerate(days):
        end = START + timedelta(days=day)
        wanted = decide(results(**{detector: DEGRADED if down else FINE}), window_digest=str(day))
        decision = restrained(wanted, past, rules, end=end, champion="1", source="s")
        health = {one.detector: one.health for one in decision.results}
        past.append(
            PastDecision(
                day,
                str(day),
                end,
                decision.action,
                "1",
                "s",
                recalibrates(decision),
                health,
                {},
                {},
            )
        )
        decisions.append(decision)
    return decisions


def test_alternating_traffic_builds_no_more_than_the_budget_allows() -> None:
    decisions = played(
        [day % 2 == 0 for day in range(60)], Restraint(cooldown=3, builds=2, days=14)
    )
    builds = [day for day, one in enumerate(decisions) if recalibrates(one)]
    assert len(builds) <= 2 * 60 / 14 + 2
    assert all(sum(start <= day < start + 14 for day in builds) <= 2 for start in range(60))
    assert all(one.held for one in decisions if one.action is Action.HOLD)


def test_the_window_after_a_build_starts_no_second_one_and_says_why() -> None:
    decisions = played([True, True, True], Restraint(cooldown=1))
    assert [one.action for one in decisions] == [
        Action.RECALIBRATE,
        Action.HOLD,
        Action.RECALIBRATE,
    ]
    assert "cooldown" in decisions[1].reasons[0]


def test_a_spent_budget_is_reported() -> None:
    decisions = played([True, True], Restraint(cooldown=0, builds=1))
    assert "the build budget is spent (1 of 1 in 7 days)" in decisions[1].reasons[0]


def test_a_detector_must_degrade_as_often_as_asked() -> None:
    decisions = played([True, False, True, True], Restraint(confirm=2, of=3, cooldown=0))
    assert [one.action for one in decisions] == [
        Action.HOLD,
        Action.KEEP,
        Action.RECALIBRATE,
        Action.RECALIBRATE,
    ]
    assert "range degraded in 1 of the last 3 windows, and 2 are needed" in decisions[0].held


def test_safety_is_never_held_back() -> None:
    decisions = played(
        [True] * 5, Restraint(confirm=3, of=3, cooldown=9, builds=0), detector="safety"
    )
    assert {one.action for one in decisions} == {Action.FALLBACK}


def test_new_weights_do_not_wait_for_the_cooldown_but_are_tried_once() -> None:
    before = PastDecision(1, "a", START, Action.RECALIBRATE, "1", "old", True, {}, {}, {})
    wanted = decide(results(weights=DEGRADED), window_digest="b")
    rules = Restraint(cooldown=5)
    first = restrained(wanted, [before], rules, end=START, champion="1", source="new")
    assert first.action is Action.RECALIBRATE
    again = restrained(
        wanted, [replace(before, source="new")], rules, end=START, champion="1", source="new"
    )
    assert again.action is Action.HOLD


def test_weights_are_told_apart_by_their_digest() -> None:
    assert judge_weights("a" * 64, "a" * 64).health is FINE
    assert judge_weights("a" * 64, "b" * 64).health is DEGRADED
    assert judge_weights(None, "b" * 64).health is Health.INCONCLUSIVE


def test_the_cause_follows_from_the_readings() -> None:
    assert attribute(results()) == (Cause.NOTHING,)
    assert attribute(results(input=DEGRADED)) == (Cause.INPUT_MOVED,)
    assert attribute(results(range=DEGRADED, fidelity=DEGRADED)) == (Cause.SCALES_OUTGROWN,)
    assert attribute(results(fidelity=DEGRADED)) == (Cause.PRECISION_OUTGROWN,)
    assert attribute(results(control=DEGRADED)) == (Cause.MODEL_OUTGROWN,)
    assert attribute(results(weights=DEGRADED))[0] is Cause.WEIGHTS_CHANGED
    assert attribute(results(range=Health.INCONCLUSIVE)) == (Cause.UNKNOWN,)
    assert attribute([]) == (Cause.UNKNOWN,)
