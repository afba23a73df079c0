"""What a climb makes of its candidates' reports: figures, the end of a search, and the choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import climbing
from flows.climbing import Climbed, ClimbInputs, _ends, chosen, figures, limits
from flows.orchestration.progress import Progress
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.ladder import climb
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.report.pareto import CandidateFigures
from tasks.records import Action, CandidateRef, GateReport, GateResult, Interval, SampleRef, Verdict
from tasks.specs.spec import load_spec
from tasks.validation.report import is_settled

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
SPEC = load_spec(EXAMPLES / "minilm" / "model.yaml")


def gate(
    metric: str, value: float, verdict: Verdict = Verdict.PASSED, group: str = "all"
) -> GateResult:
    return GateResult(
        metric, group, True, verdict, Interval(value, value, value), 1.0, "at least", 20, "because"
    )


def climbed(recipe: str, *gates: GateResult) -> Climbed:
    candidate = CandidateRef("minilm", "c", recipe, "d", (), 1.0)
    return Climbed(find_recipe(recipe), candidate, (), (GateReport("onnxruntime-cpu", gates),))


GOOD = (
    gate("cosine", 0.995),
    gate("latency-ratio", 0.6),
    gate("size-ratio", 0.5),
    gate("peak-memory-ratio", 0.7),
)


def test_a_candidates_loss_is_what_the_first_metric_lacks_over_all_cases() -> None:
    found = figures(climbed("int8-smooth", gate("cosine", 0.9, group="language=ja"), *GOOD), SPEC)
    assert found.loss == pytest.approx(0.005)
    assert (found.size, found.latency, found.peak_memory) == (0.5, 0.6, 0.7)
    assert found.passed
    assert found.metrics["onnxruntime-cpu/cosine.language.ja"] == 0.9


def test_a_candidate_that_could_not_be_judged_has_no_figures() -> None:
    found = figures(climbed("int8-smooth"), SPEC)
    assert (found.loss, found.size, found.latency, found.passed) == (None, None, None, False)


def test_the_limits_are_the_specs_budgets_on_the_same_axes() -> None:
    assert limits(SPEC).loss == "1 - cosine"
    assert limits(SPEC).loss_budget == pytest.approx(0.008)
    assert limits(load_spec(EXAMPLES / "digits" / "model.yaml")).loss_budget >= 0


def test_a_first_search_ends_at_good_enough_and_too_dear_but_not_among_the_shorter_floats() -> None:
    dear = (gate("cosine", 0.995), gate("latency-ratio", 1.4, Verdict.FAILED))
    assert _ends(find_recipe("int8-mixed-4"), climbed("int8-mixed-4", *dear).reports)
    assert not _ends(find_recipe("int8-weights"), climbed("int8-weights", *dear).reports)
    bad = (gate("cosine", 0.9, Verdict.FAILED),)
    assert not _ends(find_recipe("int8-mixed-4"), climbed("int8-mixed-4", *bad).reports)


def test_what_is_only_too_large_leaves_the_smaller_candidates_to_try_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = (gate("cosine", 0.995), gate("size-ratio", 0.9, Verdict.FAILED))
    told = {
        "int8-smooth": large,
        "int8-weights": large,
        "int4-mixed": (gate("cosine", 0.9, Verdict.FAILED),),
    }
    tried: list[str] = []

    def measured(_: object, candidate: Recipe, *__: object, **___: object) -> Climbed:
        tried.append(candidate.name)
        return climbed(candidate.name, *told.get(candidate.name, GOOD))

    monkeypatch.setattr(climbing, "_measured", measured)
    monkeypatch.setattr(climbing, "_losses", lambda *_, **__: None)
    ladder = climb(
        recipe=None,
        has_quantized_champion=False,
        action=Action.RECALIBRATE,
        sites=24,
        targets=["onnxruntime-cpu"],
    )
    material = ClimbInputs(SampleRef("m", "d", "k", 1, 1, {}, ()), "o", None, ())
    climbing.climb_ladder(material, ladder, ["onnxruntime-cpu"], "first", Progress("climb"))
    assert tried == ["int8-smooth", "int8-weights", "int4-mixed", "int4-gptq"]


def test_a_first_search_takes_its_last_candidate_and_a_full_one_the_cheapest_that_passed() -> None:
    candidates = [
        climbed("int8-smooth", *GOOD),
        climbed("int8-mixed-4", *GOOD),
        climbed("full-precision", *GOOD),
    ]
    speeds = (0.5, 0.4, 1.0)
    measured = [
        CandidateFigures(one.recipe.name, True, False, "", 0.0, 0.5, speed, None, {})
        for one, speed in zip(candidates, speeds, strict=True)
    ]
    assert chosen(candidates, measured, "first") == 2
    assert chosen(candidates, measured, "full") == 1


def test_a_verdict_that_a_busy_machine_may_have_made_is_not_kept() -> None:
    slow = GateReport(
        "onnxruntime-cpu", (gate("cosine", 0.99), gate("latency-ratio", 2.0, Verdict.FAILED))
    )
    unknown = GateReport("onnxruntime-cpu", (gate("latency-ratio", 2.0, Verdict.INCONCLUSIVE),))
    bad = GateReport(
        "onnxruntime-cpu",
        (gate("cosine", 0.9, Verdict.FAILED), gate("latency-ratio", 1, Verdict.FAILED)),
    )
    assert [is_settled(one) for one in (slow, unknown, bad)] == [False, False, True]
    assert is_settled(GateReport("onnxruntime-cpu", GOOD))
