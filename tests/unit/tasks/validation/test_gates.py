"""Verdicts: only enough good data passes; no data, NaN and straddling intervals never do."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.records import CaseKind, GateReport, GateResult, GoldenCase, GoldenSet, Interval, Verdict
from tasks.specs.spec import Budgets, QualityBudget, Task
from tasks.validation.gates import (
    AT_LEAST,
    AT_MOST,
    error_gate,
    golden_gates,
    is_implausible,
    judge,
    quality_gates,
    safety_gate,
    unexecuted,
)
from tasks.validation.metrics.golden import CaseScores

PASSED, FAILED, INCONCLUSIVE, ERROR = (
    Verdict.PASSED,
    Verdict.FAILED,
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
)
COSINE = QualityBudget(metric="cosine", at_least=0.9)
EVERYTHING: frozenset[str] = frozenset()


def budgets(*quality: QualityBudget) -> Budgets:
    return Budgets(latency_ratio=1, size_ratio=1, quality=quality or (COSINE,))


def cases(*groups: tuple[str, str], each: int = 20) -> list[GoldenCase]:
    """`each` cases of every (domain, language)."""
    pairs = [pair for pair in groups or (("docs", "en"),) for _ in range(each)]
    return [
        GoldenCase(str(n), "text", domain, language) for n, (domain, language) in enumerate(pairs)
    ]


def scored(values: Sequence[float] | np.ndarray) -> CaseScores:
    return CaseScores(np.asarray(values, np.float64), np.arange(len(values)))


def test_an_error_in_units_of_its_own_is_not_widened_by_cases_of_one() -> None:
    values, rule = np.zeros(20), QualityBudget(metric="price-increase", at_most=0.001)
    of_unit = scored(values)
    of_dollars = CaseScores(of_unit.values, of_unit.cases, unit=False)
    for scores, verdict in ((of_unit, INCONCLUSIVE), (of_dollars, PASSED)):
        gates = quality_gates({"price-increase": scores}, cases(), budgets(rule), served=EVERYTHING)
        assert {gate.verdict for gate in gates} == {verdict}


def by_group(gates: Sequence[GateResult]) -> dict[str, GateResult]:
    assert len({gate.group for gate in gates}) == len(gates)
    return {gate.group: gate for gate in gates}


@pytest.mark.parametrize(
    ("low", "value", "high", "at_least", "at_most"),
    [
        (0.6, 0.7, 0.8, PASSED, FAILED),
        (0.5, 0.7, 0.8, PASSED, FAILED),  # the bound itself keeps the budget
        (0.4, 0.7, 0.8, INCONCLUSIVE, FAILED),
        (0.4, 0.5, 0.6, INCONCLUSIVE, INCONCLUSIVE),
        (0.2, 0.4, 0.6, FAILED, INCONCLUSIVE),
        (0.2, 0.4, 0.5, FAILED, PASSED),
        (0.2, 0.3, 0.4, FAILED, PASSED),
        (0.6, 0.4, 0.8, FAILED, INCONCLUSIVE),  # an interval beside its estimate cannot save it
        (0.5, 0.5, 0.5, PASSED, PASSED),
    ],
)
def test_verdicts_follow_estimate_and_interval(
    low: float, value: float, high: float, at_least: Verdict, at_most: Verdict
) -> None:
    estimate = Interval(value, low, high)
    assert judge(estimate, 0.5, AT_LEAST) is at_least
    assert judge(estimate, 0.5, AT_MOST) is at_most


@pytest.mark.parametrize("direction", [AT_LEAST, AT_MOST])
def test_a_nan_in_any_figure_is_an_error(direction: str) -> None:
    for figures in itertools.product((0.5, np.nan), repeat=4):
        if np.isnan(figures).any():
            assert judge(Interval(*figures[:3]), figures[3], direction) is ERROR


@given(st.tuples(*[st.floats(-1, 1)] * 3), st.floats(-1, 1), st.floats(0, 1))
def test_a_looser_budget_never_worsens_a_verdict(
    figures: tuple[float, ...], budget: float, slack: float
) -> None:
    low, value, high = sorted(figures)
    order = (FAILED, INCONCLUSIVE, PASSED)
    for direction, looser in ((AT_LEAST, budget - slack), (AT_MOST, budget + slack)):
        strict, loose = (judge(Interval(value, low, high), b, direction) for b in (budget, looser))
        assert order.index(loose) >= order.index(strict)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 1), min_size=10, max_size=60), st.floats(0, 1), st.data())
def test_one_more_flip_never_betters_a_verdict(
    flips: list[int], budget: float, data: st.DataObject
) -> None:
    worse = list(flips)
    worse[data.draw(st.integers(0, len(flips) - 1))] = 1
    rule = budgets(QualityBudget(metric="flips", at_most=budget))
    order = (FAILED, INCONCLUSIVE, PASSED)
    before, after = (
        quality_gates({"flips": scored(v)}, cases(each=len(v)), rule, served=EVERYTHING)[0]
        for v in (flips, worse)
    )
    assert order.index(after.verdict) <= order.index(before.verdict)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), max_size=9), st.floats(-1, 1))
def test_fewer_than_ten_cases_are_always_inconclusive(values: list[float], budget: float) -> None:
    rule = budgets(QualityBudget(metric="cosine", at_least=budget))
    found = quality_gates({"cosine": scored(values)}, cases(each=20), rule, served=EVERYTHING)
    assert {gate.verdict for gate in found} == {INCONCLUSIVE}


def test_ten_good_cases_pass() -> None:
    (gate, *_) = quality_gates(
        {"cosine": scored([0.99] * 10)}, cases(each=10), budgets(), served=EVERYTHING
    )
    assert (gate.verdict, gate.group, gate.count, gate.binding) == (PASSED, "all", 10, True)
    assert gate.reason == (
        "cosine of all: 0.99 (95 % interval 0.99 to 0.99); the budget is at least 0.9"
    )


def test_a_mean_below_the_budget_fails() -> None:
    (gate, *_) = quality_gates(
        {"cosine": scored([0.8] * 50)}, cases(each=50), budgets(), served=EVERYTHING
    )
    assert gate.verdict is FAILED


def test_a_straddling_interval_is_inconclusive() -> None:
    values = np.where(np.arange(20) % 2, 1.0, 0.82)  # mean 0.91, interval about 0.87 to 0.95
    (gate, *_) = quality_gates(
        {"cosine": scored(values)}, cases(each=20), budgets(), served=EVERYTHING
    )
    assert gate.verdict is INCONCLUSIVE
    assert "too few golden cases to tell" in gate.reason


@pytest.mark.parametrize("metric", ["cosine", "recall-drop", "accuracy-drop", "flips"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, 20])
def test_a_score_that_is_not_finite_is_an_error(metric: str, bad: float, count: int) -> None:
    values = np.zeros(count)
    values[-1] = bad
    rule = budgets(QualityBudget(metric=metric, at_most=1.0))
    found = quality_gates({metric: scored(values)}, cases(each=count), rule, served=EVERYTHING)
    assert {gate.verdict for gate in found} == {ERROR}
    assert GateReport("t", found).verdict is ERROR


def test_a_metric_that_nothing_measures_is_inconclusive() -> None:
    found = quality_gates({}, cases(), budgets(), served=EVERYTHING)
    assert {gate.verdict for gate in found} == {INCONCLUSIVE}
    assert {gate.count for gate in found} == {0}


def test_no_flips_in_few_cases_do_not_prove_a_tight_budget() -> None:
    rule = budgets(QualityBudget(metric="flips", at_most=0.02))
    few, many = (
        quality_gates({"flips": scored(np.zeros(n))}, cases(each=n), rule, served=EVERYTHING)[0]
        for n in (50, 400)
    )
    assert (few.verdict, many.verdict) == (INCONCLUSIVE, PASSED)


def test_no_drop_in_few_queries_does_not_prove_a_tight_budget() -> None:
    rule = budgets(QualityBudget(metric="recall-drop", at_most=0.05))
    few, many = (
        quality_gates({"recall-drop": scored(np.zeros(n))}, cases(each=n), rule, served=EVERYTHING)[
            0
        ]
        for n in (20, 400)
    )
    assert (few.verdict, many.verdict) == (INCONCLUSIVE, PASSED)


def test_every_group_of_the_golden_set_is_judged_on_its_own_cases() -> None:
    golden = cases(("docs", "en"), ("code", "ja"))
    found = by_group(
        quality_gates(
            {"cosine": scored([0.99] * 20 + [0.5] * 20)}, golden, budgets(), served=EVERYTHING
        )
    )
    assert list(found) == ["all", "domain=code", "domain=docs", "language=en", "language=ja"]
    assert all(gate.binding for gate in found.values())
    assert {name for name, gate in found.items() if gate.verdict is PASSED} == {
        "domain=docs",
        "language=en",
    }


def test_groups_that_nobody_sends_are_reported_and_do_not_bind() -> None:
    golden = cases(("docs", "en"), ("code", "ja"))
    served = frozenset({"domain=docs", "language=en"})
    found = quality_gates(
        {"cosine": scored([0.99] * 20 + [0.5] * 20)}, golden, budgets(), served=served
    )
    groups = by_group(found)
    assert groups["all"].count == 20
    assert {name for name, gate in groups.items() if not gate.binding} == {
        "domain=code",
        "language=ja",
    }
    assert groups["language=ja"].verdict is FAILED
    assert GateReport("t", found).verdict is PASSED


def test_a_served_group_is_judged_without_its_cases_that_nobody_sends() -> None:
    golden = cases(("docs", "en"), ("docs", "ja"))
    served = frozenset({"domain=docs", "language=en"})
    found = by_group(
        quality_gates(
            {"cosine": scored([0.99] * 20 + [0.5] * 20)}, golden, budgets(), served=served
        )
    )
    assert (found["domain=docs"].count, found["domain=docs"].verdict) == (20, PASSED)


def test_traffic_that_names_only_languages_leaves_domains_free() -> None:
    golden = cases(("docs", "en"), ("code", "ja"))
    found = by_group(
        quality_gates(
            {"cosine": scored([0.99] * 40)}, golden, budgets(), served=frozenset({"language=en"})
        )
    )
    assert found["all"].count == 20


def test_traffic_in_a_group_without_golden_cases_is_told_and_binds_nothing_but_all() -> None:
    served = frozenset({"domain=docs", "language=en", "language=sv"})
    found = quality_gates({"cosine": scored([0.99] * 20)}, cases(), budgets(), served=served)
    swedish = by_group(found)["language=sv"]
    assert (swedish.verdict, swedish.binding, swedish.count) == (INCONCLUSIVE, False, 0)
    assert "not judged by group" in swedish.reason
    assert GateReport("t", found).verdict is PASSED


@pytest.mark.parametrize("language", ["sv", "unknown"])
def test_where_some_traffic_is_of_no_golden_language_all_is_the_cases_of_every_language(
    language: str,
) -> None:
    golden = cases(("docs", "en"), ("docs", "ja"), ("code", "en"))
    served = frozenset({"domain=docs", "language=en", f"language={language}"})
    scores = {"cosine": scored([0.99] * 20 + [0.5] * 20 + [0.2] * 20)}
    found = by_group(quality_gates(scores, golden, budgets(), served=served))
    assert (found["all"].count, found["all"].verdict) == (40, FAILED)
    assert (found["language=en"].count, found["language=en"].binding) == (20, True)


def test_unknown_is_no_group_even_where_golden_cases_are_called_so() -> None:
    golden = cases(("unknown", "en"), ("docs", "en"))
    served = frozenset({"domain=unknown", "language=en"})
    found = by_group(
        quality_gates({"cosine": scored([0.99] * 40)}, golden, budgets(), served=served)
    )
    assert found["all"].count == 40
    assert not found["domain=unknown"].binding


def test_a_group_that_the_spec_names_binds_with_or_without_cases() -> None:
    swedish = QualityBudget(metric="cosine", group="language=sv", at_least=0.9)
    served = frozenset({"domain=docs", "language=en", "language=sv"})
    found = quality_gates(
        {"cosine": scored([0.99] * 20)}, cases(), budgets(COSINE, swedish), served=served
    )
    assert by_group(found)["language=sv"].binding
    assert GateReport("t", found).verdict is INCONCLUSIVE


def test_a_budget_for_a_group_replaces_the_general_one_there() -> None:
    looser = QualityBudget(metric="cosine", group="language=ja", at_least=0.4)
    golden = cases(("docs", "en"), ("docs", "ja"))
    found = by_group(
        quality_gates(
            {"cosine": scored([0.99] * 20 + [0.5] * 20)},
            golden,
            budgets(COSINE, looser),
            served=EVERYTHING,
        )
    )
    assert (found["language=ja"].budget, found["language=ja"].verdict) == (0.4, PASSED)
    assert found["language=en"].budget == 0.9


def test_a_budget_for_one_metric_leaves_another_metric_alone() -> None:
    flips = QualityBudget(metric="flips", group="language=en", at_most=0.5)
    scores = {"cosine": scored([0.99] * 20), "flips": scored([0] * 20)}
    found = quality_gates(scores, cases(), budgets(COSINE, flips), served=EVERYTHING)
    assert [(g.metric, g.group) for g in found if g.group == "language=en"] == [
        ("cosine", "language=en"),
        ("flips", "language=en"),
    ]


def test_a_metric_with_budgets_for_groups_only_is_judged_only_there() -> None:
    overall = QualityBudget(metric="cosine", group="all", at_least=0.9)
    found = quality_gates(
        {"cosine": scored([0.99] * 20)}, cases(), budgets(overall), served=EVERYTHING
    )
    assert [gate.group for gate in found] == ["all"]


@pytest.mark.parametrize(
    ("flips", "count", "budget", "verdict"),
    [
        (0, 100, 0, PASSED),
        (1, 100, 0, FAILED),
        (2, 100, 2, PASSED),
        (3, 100, 2, FAILED),
        (0, 0, 0, INCONCLUSIVE),
        (0, 0, 5, INCONCLUSIVE),
        (0, 9, 0, INCONCLUSIVE),
        (1, 9, 0, FAILED),  # one proven flip too many needs no more cases
        (0, 10, 0, PASSED),
    ],
)
def test_safety_flips_are_counted_against_their_budget(
    flips: int, count: int, budget: int, verdict: Verdict
) -> None:
    gate = safety_gate(flips, count, budget)
    assert (gate.verdict, gate.binding, gate.count) == (verdict, True, count)


def test_an_exception_becomes_an_error_that_binds() -> None:
    gate = error_gate("latency-ratio", "all", RuntimeError("engine\n  died"))
    assert (gate.verdict, gate.binding) == (ERROR, True)
    assert gate.reason == "could not be judged: engine died"
    assert error_gate("cosine", "all", KeyError()).reason == "could not be judged: KeyError"


def test_an_engine_that_cannot_run_here_is_inconclusive() -> None:
    report = unexecuted("tensorrt", "there is no GPU on this host")
    assert report.verdict is INCONCLUSIVE
    assert report.refusals[0].reason == "there is no GPU on this host"


def golden_texts(count: int, safety: int, head: bool = True) -> GoldenSet:
    plain = [GoldenCase(f"p{n}", "x", "docs", "en") for n in range(count)]
    guarded = [
        GoldenCase(f"s{n}", "x", "safety", "xx", CaseKind.SAFETY, "blocked") for n in range(safety)
    ]
    return GoldenSet((*plain, *guarded), "d", np.array([1, 0], np.float32) if head else None, 0.0)


def outputs(count: int) -> np.ndarray:
    return np.tile(np.array([[0.6, 0.8]], np.float32), (count, 1))


def run(
    golden: GoldenSet, candidate: np.ndarray, served: frozenset[str] = EVERYTHING
) -> GateReport:
    reference = outputs(len(golden.cases))
    gates = golden_gates(
        Task.TEXT_EMBEDDING, golden, reference, candidate, budgets(), served=served
    )
    return GateReport("onnxruntime-cpu", gates)


def test_a_faithful_candidate_passes() -> None:
    assert run(golden_texts(20, 20), outputs(40)).verdict is PASSED


def test_safety_binds_even_where_nobody_sends_that_language() -> None:
    candidate = outputs(40)
    candidate[-1] = [-0.6, 0.8]
    report = run(golden_texts(20, 20), candidate, served=frozenset({"domain=docs", "language=en"}))
    assert report.verdict is FAILED
    assert [gate.metric for gate in report.refusals] == ["safety-flips"]


def test_a_safety_head_without_safety_cases_is_inconclusive() -> None:
    assert run(golden_texts(20, 0), outputs(20)).verdict is INCONCLUSIVE


def test_without_a_safety_head_there_is_no_safety_gate() -> None:
    report = run(
        golden_texts(20, 20, head=False),
        outputs(40),
        served=frozenset({"domain=docs", "language=en"}),
    )
    assert "safety-flips" not in {gate.metric for gate in report.gates}
    assert report.verdict is PASSED


@pytest.mark.parametrize("row", [0, 39])
def test_a_candidate_with_nan_ends_as_an_error(row: int) -> None:
    candidate = outputs(40)
    candidate[row, 0] = np.nan
    report = run(golden_texts(20, 20), candidate)
    assert report.verdict is ERROR
    assert f"case {row}" in report.gates[0].reason


def test_a_candidate_of_another_width_ends_as_an_error() -> None:
    assert run(golden_texts(20, 20), np.ones((40, 3), np.float32)).verdict is ERROR


@pytest.mark.parametrize(
    ("metric", "interval", "implausible"),
    [
        ("perplexity-ratio", Interval(0.907, 0.88, 0.93), True),
        ("perplexity-ratio", Interval(0.96, 0.92, 1.0), False),
        ("perplexity-ratio", Interval(0.99, 0.98, 0.999), False),
        ("accuracy-drop", Interval(-0.2, -0.3, -0.1), True),
        ("accuracy-drop", Interval(-0.03, -0.06, -0.01), False),
        ("wer-increase", Interval(-0.3, -0.4, -0.2), True),
        ("cosine", Interval(1.0, 1.0, 1.0), False),
    ],
)
def test_what_is_far_better_than_full_precision_is_implausible(
    metric: str, interval: Interval, implausible: bool
) -> None:
    assert is_implausible(metric, interval) is implausible


def test_an_implausibly_good_candidate_is_suspicious_and_is_not_promoted() -> None:
    rule = QualityBudget(metric="perplexity-ratio", at_most=1.05)
    losses = scored(np.full(20, np.log(0.907)) + np.linspace(-0.01, 0.01, 20))
    scores = {"perplexity-ratio": losses}
    overall = quality_gates(scores, cases(), budgets(rule), served=EVERYTHING)[0]
    assert overall.verdict is Verdict.SUSPICIOUS
    assert "implausibly better than full precision" in overall.reason
    report = GateReport("onnxruntime-cpu", (overall,))
    assert report.verdict is Verdict.SUSPICIOUS
    assert report.refusals == (overall,)
