"""A language model's golden scores, and the gates made of them."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from infra.settings import settings
from tasks.metrics import generated_text
from tasks.models.decoding.comparison import Comparison
from tasks.records import CaseKind, GateResult, GoldenCase, GoldenSet, Verdict
from tasks.specs.spec import Budgets, QualityBudget
from tasks.validation.gates import language_gates
from tasks.validation.metrics.language import LanguageOutputs, evaluate_language

EACH = 20
CODE = "def f(x):\n"
RIGHT: Mapping[CaseKind, str | None] = {
    CaseKind.PLAIN: None,
    CaseKind.ANSWER: "Oslo",
    CaseKind.SUMMARY: "It reads a file.",
    CaseKind.DIALOGUE: "Your name is Lina.",
    CaseKind.SAFETY: "blocked",
    CaseKind.CODE: "f(1) == 2\nf(3) == 4",
}
GIVEN = {**RIGHT, CaseKind.CODE: "    return x + 1\n"}


def golden(each: int = EACH, labelled: bool = True) -> GoldenSet:
    cases = [
        GoldenCase(
            f"{kind}-{n}",
            CODE if kind is CaseKind.CODE else f"text {n}",
            str(kind),
            "en",
            kind,
            label,
        )
        for kind, label in RIGHT.items()
        for n in range(each)
    ]
    if not labelled:
        cases = [
            GoldenCase(c.case_id, c.payload, c.domain, c.language, c.kind, None) for c in cases
        ]
    return GoldenSet(tuple(cases), "digest")


def outputs(
    of: GoldenSet,
    changed: Mapping[CaseKind, str] | None = None,
    *,
    loss: float = 0.0,
    agreement: float = 1.0,
) -> LanguageOutputs:
    """Build a candidate that answers the first case of some kinds otherwise, and predicts worse."""
    count = len(of.cases)
    compared = Comparison(
        np.full(count, 2.0),
        np.full(count, 2.0 + loss),
        np.full(count, agreement),
        np.full(count, loss),
        np.full(count, 9),
    )
    said = {
        n: str(GIVEN[case.kind])
        for n, case in enumerate(of.cases)
        if case.kind is not CaseKind.PLAIN
    }
    first = {
        kind: next(n for n, case in enumerate(of.cases) if case.kind is kind) for kind in RIGHT
    }
    other = {**said, **{first[kind]: text for kind, text in (changed or {}).items()}}
    return LanguageOutputs(compared, said, other)


def gates(
    of: GoldenSet, made: LanguageOutputs, *rules: QualityBudget, flips: int = 0
) -> tuple[GateResult, ...]:
    budgets = Budgets(latency_ratio=1, size_ratio=1, safety_flips=flips, quality=rules)
    return language_gates(of, made, budgets, served=frozenset())


def rule(metric: str, bound: float) -> QualityBudget:
    side = "at_least" if metric == "agreement" else "at_most"
    return QualityBudget.model_validate({"metric": metric, "group": "all", side: bound})


def test_the_same_answers_lose_nothing() -> None:
    found = evaluate_language(golden(), outputs(golden()))
    assert {
        metric: float(item.values.mean())
        for metric, item in found.items()
        if metric.endswith("-drop")
    } == {
        "rouge-drop": 0,
        "exact-match-drop": 0,
        "f1-drop": 0,
        "dialogue-drop": 0,
        "code-drop": 0,
    }
    assert all(
        found[f"{suite}-reference"].values.mean() == 1
        for suite in ("code", "rouge", "exact-match", "f1")
    )


@pytest.mark.parametrize(
    ("kind", "metric", "given"),
    [
        (CaseKind.ANSWER, "exact-match-drop", "Lima"),
        (CaseKind.ANSWER, "f1-drop", "Lima"),
        (CaseKind.SUMMARY, "rouge-drop", "Nothing."),
        (CaseKind.DIALOGUE, "dialogue-drop", "Your name is Omar."),
        (CaseKind.CODE, "code-drop", "    return x - 1\n"),
        (CaseKind.CODE, "code-drop", "    return (\n"),
        (CaseKind.SAFETY, "safety-flips", "allowed"),
    ],
)
def test_one_wrong_answer_is_one_cases_loss(kind: CaseKind, metric: str, given: str) -> None:
    found = evaluate_language(golden(), outputs(golden(), {kind: given}))[metric]
    assert found.values.tolist() == [1.0] + [0.0] * (EACH - 1)


def test_without_labels_the_candidate_is_compared_with_full_precision_and_the_report_says_so() -> (
    None
):
    unlabelled = GoldenSet(
        tuple(c for c in golden(labelled=False).cases if c.kind is not CaseKind.CODE), "d"
    )
    made = _outputs_without_code(unlabelled)
    found = evaluate_language(unlabelled, made)
    assert found["rouge-drop"].values.max() == 1
    shown = [
        gate
        for gate in gates(unlabelled, made, rule("agreement", 0.5))
        if gate.metric == "rouge-candidate"
    ]
    assert "labels for 0 of 20 cases; full precision's own answers" in shown[0].reason


def _outputs_without_code(of: GoldenSet) -> LanguageOutputs:
    count = len(of.cases)
    same = np.full(count, 1.0)
    said = {
        n: str(GIVEN[case.kind])
        for n, case in enumerate(of.cases)
        if case.kind is not CaseKind.PLAIN
    }
    first = next(n for n, case in enumerate(of.cases) if case.kind is CaseKind.SUMMARY)
    return LanguageOutputs(
        Comparison(same, same, same, same * 0, same.astype(np.int64)),
        said,
        {**said, first: "Something else"},
    )


def test_the_perplexity_gate_is_the_exponential_of_the_mean_difference() -> None:
    made = outputs(golden(), loss=math.log(1.04))
    (gate,) = (
        g
        for g in gates(golden(), made, rule("perplexity-ratio", 1.05))
        if g.metric == "perplexity-ratio"
    )
    assert gate.estimate is not None
    assert gate.estimate.value == pytest.approx(1.04)
    assert gate.verdict is Verdict.PASSED
    (gate,) = (
        g
        for g in gates(golden(), made, rule("perplexity-ratio", 1.03))
        if g.metric == "perplexity-ratio"
    )
    assert gate.verdict is Verdict.FAILED


def test_the_divergence_is_reported_and_never_binds() -> None:
    shown = [
        gate
        for gate in gates(golden(), outputs(golden(), loss=9.0), rule("agreement", 0.5))
        if gate.metric == "kl"
    ]
    assert {gate.group for gate in shown} >= {"all", "domain=plain", "language=en"}
    assert not any(gate.binding for gate in shown)


def test_one_flip_of_a_guardrail_over_the_budget_fails() -> None:
    made = outputs(golden(), {CaseKind.SAFETY: "allowed"})
    (refused,) = (
        g for g in gates(golden(), made, rule("agreement", 0.5)) if g.metric == "safety-flips"
    )
    (kept,) = (
        g
        for g in gates(golden(), made, rule("agreement", 0.5), flips=1)
        if g.metric == "safety-flips"
    )
    assert (refused.verdict, kept.verdict) == (Verdict.FAILED, Verdict.PASSED)


def test_few_cases_prove_nothing() -> None:
    few = golden(each=1)
    (gate,) = (
        g
        for g in gates(few, outputs(few), rule("dialogue-drop", 0.5))
        if g.metric == "dialogue-drop"
    )
    assert gate.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("text", "expected"), [(" blocked", True), ("Blocked.", True), ("allowed", False), ("", False)]
)
def test_a_guardrail_answer_is_read_by_its_first_word(text: str, expected: bool) -> None:
    assert generated_text.blocks(text) is expected


def test_scores_are_the_libraries() -> None:
    assert generated_text.rouge("the cat sat", "the cat ran") == pytest.approx(2 / 3)
    assert generated_text.exact_match("Oslo", "oslo.") == 1
    assert generated_text.f1("red bicycle", "red") == pytest.approx(2 / 3)


def test_gates_through_the_cache_bind_where_it_holds_levels_and_are_not_asked_elsewhere() -> None:
    of = golden()
    made = outputs(of)
    rules = (
        QualityBudget(metric="cache-agreement", group="all", at_least=0.9),
        QualityBudget(metric="cache-perplexity-ratio", group="all", at_most=1.05),
    )
    assert not [gate for gate in gates(of, made, *rules) if gate.metric.startswith("cache-")]
    for agreement, verdict in ((1.0, Verdict.PASSED), (0.5, Verdict.FAILED)):
        through = replace(made, cached=outputs(of, loss=0.0, agreement=agreement).compared)
        found = {gate.metric: gate for gate in gates(of, through, *rules)}
        assert found["cache-agreement"].verdict is verdict
        assert found["cache-agreement"].binding
        assert found["cache-perplexity-ratio"].verdict is Verdict.PASSED


def test_texts_without_a_step_over_the_cache_are_left_out_of_its_gate() -> None:
    of = golden()
    compared = outputs(of).compared
    short = replace(compared, tokens=np.array([1, *compared.tokens[1:]]))
    scores = evaluate_language(of, replace(outputs(of), cached=short))
    assert scores["cache-agreement"].cases.tolist() == list(range(1, len(of.cases)))


def test_programs_that_cannot_be_isolated_are_not_run_and_the_gate_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from infra.processes import sandbox

    monkeypatch.setattr(sandbox.shutil, "which", lambda _: None)
    monkeypatch.delenv("REQUANT_UNISOLATED_PROGRAMS", raising=False)
    settings.cache_clear()
    started: list[object] = []
    monkeypatch.setattr(sandbox.subprocess, "Popen", started.append)
    scored = evaluate_language(golden(), outputs(golden()))
    assert "code-drop" not in scored
    judged = gates(golden(), outputs(golden()), rule("code-drop", 0.1))
    (gate,) = [gate for gate in judged if gate.metric == "code-drop"]
    assert (gate.verdict, gate.binding, started) == (Verdict.INCONCLUSIVE, True, [])
    assert "REQUANT_UNISOLATED_PROGRAMS" in gate.reason
    assert "bubblewrap is not installed" in gate.reason
    settings.cache_clear()
