"""The table of ADR 29, row by row and in every combination."""

from itertools import product

import pytest

from infra.errors import BadInput
from tasks.drift.decision import DETECTORS, decide, recalibrates, wants_retraining
from tasks.records import Action, Decision, DetectorResult, Finding, Health

FINE, DEGRADED, INCONCLUSIVE = Health.FINE, Health.DEGRADED, Health.INCONCLUSIVE


def result(detector: str, health: Health) -> DetectorResult:
    finding = Finding("x", 0.6, 0.5, health is DEGRADED, f"{detector} figure is 1.0")
    return DetectorResult(detector, health, (finding,), 100)


def decided(**health: Health) -> Decision:
    whole = {**dict.fromkeys(DETECTORS, FINE), **health}
    return decide(
        [result(detector, value) for detector, value in whole.items()], window_digest="abc"
    )


@pytest.mark.parametrize(
    ("health", "action", "headline"),
    [
        ({}, Action.KEEP, "Ranges and fidelity are fine: keep."),
        (
            {"input": DEGRADED},
            Action.KEEP,
            "The input moved, but ranges and fidelity are fine: keep.",
        ),
        (
            {"range": DEGRADED},
            Action.RECALIBRATE,
            "no longer fits this traffic (range degraded): recalibrate",
        ),
        ({"fidelity": DEGRADED}, Action.RECALIBRATE, "(fidelity degraded)"),
        (
            {"range": DEGRADED, "fidelity": DEGRADED},
            Action.RECALIBRATE,
            "(range and fidelity degraded)",
        ),
        ({"input": DEGRADED, "range": DEGRADED}, Action.RECALIBRATE, "(range degraded)"),
        (
            {"weights": DEGRADED},
            Action.RECALIBRATE,
            "weights changed since the champion was built: recalibrate.",
        ),
        (
            {"weights": DEGRADED, "control": DEGRADED},
            Action.REQUEST_RETRAINING,
            "so recalibrate too",
        ),
        ({"control": DEGRADED}, Action.REQUEST_RETRAINING, "recalibration cannot help"),
        (
            {"control": DEGRADED, "range": DEGRADED},
            Action.REQUEST_RETRAINING,
            "recalibration cannot help",
        ),
        ({"control": DEGRADED, "fidelity": DEGRADED}, Action.REQUEST_RETRAINING, "recalibrate too"),
        ({"safety": DEGRADED}, Action.FALLBACK, "fall back, then recalibrate."),
        ({"safety": DEGRADED, "control": DEGRADED}, Action.FALLBACK, "and request retraining"),
        ({"range": INCONCLUSIVE}, Action.INCONCLUSIVE, "range could not be judged"),
        ({"fidelity": INCONCLUSIVE}, Action.INCONCLUSIVE, "fidelity could not be judged"),
        (
            dict.fromkeys(DETECTORS, INCONCLUSIVE),
            Action.INCONCLUSIVE,
            "range and fidelity could not be judged",
        ),
        ({"fidelity": INCONCLUSIVE, "range": DEGRADED}, Action.RECALIBRATE, "(range degraded)"),
        ({"control": INCONCLUSIVE}, Action.KEEP, "keep"),
        ({"safety": INCONCLUSIVE, "input": INCONCLUSIVE}, Action.KEEP, "keep"),
    ],
)
def test_each_row_of_the_table_holds(
    health: dict[str, Health], action: Action, headline: str
) -> None:
    decision = decided(**health)
    assert decision.action is action
    assert headline in decision.reasons[0]


def test_outgrown_scales_are_answered_beside_a_build_by_what_does_not_drift() -> None:
    told = decided(range=DEGRADED).reasons[-1]
    assert "a precision that does not drift" in told
    assert "4 bytes a weight" in told, "with what it costs"
    for health in ({}, {"fidelity": DEGRADED}, {"weights": DEGRADED, "range": DEGRADED}):
        assert "does not drift" not in " ".join(decided(**health).reasons)


COMBINATIONS = [
    dict(zip(DETECTORS, values, strict=True)) for values in product(Health, repeat=len(DETECTORS))
]


@pytest.mark.parametrize(
    "health",
    COMBINATIONS,
    ids=lambda health: "-".join(value.value[:1] for value in health.values()),
)
def test_every_combination_is_decided_by_the_first_rule_that_applies(
    health: dict[str, Health],
) -> None:
    decision = decided(**health)
    degraded = {detector for detector, value in health.items() if value is DEGRADED}
    judged = {health["range"], health["fidelity"]}
    expected = (
        Action.FALLBACK
        if "safety" in degraded
        else Action.REQUEST_RETRAINING
        if "control" in degraded
        else Action.RECALIBRATE
        if degraded & {"weights", "range", "fidelity"}
        else Action.INCONCLUSIVE
        if INCONCLUSIVE in judged
        else Action.KEEP
    )
    assert decision.action is expected
    lasting = expected is Action.RECALIBRATE and "range" in degraded and "weights" not in degraded
    assert len(decision.reasons) == 1 + len(DETECTORS) + lasting
    assert all(reason.endswith(".") for reason in decision.reasons)
    assert recalibrates(decision) == (
        expected in (Action.FALLBACK, Action.RECALIBRATE)
        or (expected is Action.REQUEST_RETRAINING and bool(degraded & {"fidelity", "weights"}))
    )
    assert wants_retraining(decision) == ("control" in degraded)


def fidelity(health: Health, **groups: float) -> DetectorResult:
    """Mean scores by group; 0.95 is wanted."""
    return DetectorResult(
        "fidelity",
        health,
        tuple(Finding(n, v, 0.95, False, f"{n}: {v}") for n, v in groups.items()),
        9,
    )


@pytest.mark.parametrize(
    ("answers", "action"),
    [
        (fidelity(FINE, all=0.995, ja=0.992), Action.KEEP),
        (
            fidelity(FINE, all=0.995, ja=0.992, few=0.0),
            Action.KEEP,
        ),  # too few to judge, which the finding says
        (fidelity(FINE, all=0.995, ja=0.985), Action.RECALIBRATE),
        (fidelity(DEGRADED, all=0.995), Action.RECALIBRATE),
        (fidelity(INCONCLUSIVE, few=0.0), Action.RECALIBRATE),
    ],
)
def test_outgrown_scales_wait_until_somebodys_answers_lose_something(
    answers: DetectorResult, action: Action
) -> None:
    others = [
        result(detector, DEGRADED if detector == "range" else FINE)
        for detector in DETECTORS
        if detector != "fidelity"
    ]
    decision = decide([*others, answers], window_digest="abc")
    assert decision.action is action
    if action is Action.KEEP:
        assert decision.reasons[0].startswith(
            "Scales are outgrown, but the answers have lost hardly anything"
        )
        assert any(reason.startswith("Range degraded:") for reason in decision.reasons)
        assert not recalibrates(decision)


def test_no_readings_at_all_decide_nothing() -> None:
    assert decide([], window_digest="abc").action is Action.INCONCLUSIVE


def test_what_could_not_be_judged_but_counts_as_fine_is_said() -> None:
    reasons = " ".join(decided(control=INCONCLUSIVE).reasons)
    assert "Control could not be judged and counts as fine: control figure is 1.0." in reasons


def test_reasons_quote_the_figures_of_what_degraded_first() -> None:
    assert decided(fidelity=DEGRADED).reasons[1] == "Fidelity degraded: fidelity figure is 1.0."


def test_many_findings_are_summed_up() -> None:
    findings = tuple(Finding(f"l{i}", 1, 0, True, f"layer {i}") for i in range(9))
    decision = decide([DetectorResult("range", DEGRADED, findings, 1)], window_digest="abc")
    assert decision.reasons[1] == "Range degraded: layer 0; layer 1; layer 2; and 6 more."


def test_of_several_readings_of_one_detector_the_worst_counts() -> None:
    results = [result(detector, FINE) for detector in DETECTORS] + [result("safety", DEGRADED)]
    assert decide(results, window_digest="abc").action is Action.FALLBACK


def test_the_decision_keeps_its_evidence() -> None:
    decision = decided()
    assert decision.window_digest == "abc"
    assert [one.detector for one in decision.results] == list(DETECTORS)


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(
        BadInput, match="no detector called vibes: the decision knows weights, input, range"
    ):
        decide([result("vibes", FINE)], window_digest="abc")
