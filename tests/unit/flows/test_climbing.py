"""What a climb makes of its candidates' reports: figures, the end of a search, and the choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import climbing
from flows.climbing import Climbed, ClimbInputs, chosen, figures, limits
from flows.orchestration.progress import Progress
from infra.errors import Refused
from tasks.quantization.recipe.catalog import RECIPES, find_recipe
from tasks.quantization.recipe.ladder import climb
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.report.pareto import CandidateFigures
from tasks.records import (
    Action,
    CandidateRef,
    EngineRef,
    GateReport,
    GateResult,
    Interval,
    SampleRef,
    Verdict,
)
from tasks.specs.spec import load_spec
from tasks.validation.gates import unbuilt
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


LARGE = (gate("cosine", 0.995), gate("size-ratio", 0.9, Verdict.FAILED))
SLOW = (gate("cosine", 0.995), gate("latency-ratio", 1.4, Verdict.FAILED))
LOSSY = (gate("cosine", 0.9, Verdict.FAILED),)
ABSENT = (gate("execution", 0.0, Verdict.INCONCLUSIVE),)


def tried(
    monkeypatch: pytest.MonkeyPatch, verdicts: dict[str, tuple[GateResult, ...]], sites: int = 24
) -> list[str]:
    """Climb the CPU's ladder with these gates, and good ones elsewhere; what was built."""
    built: list[str] = []

    def measured(_: object, candidate: Recipe, *__: object, **___: object) -> Climbed:
        built.append(candidate.name)
        return climbed(candidate.name, *verdicts.get(candidate.name, GOOD))

    monkeypatch.setattr(climbing, "_measured", measured)
    monkeypatch.setattr(climbing, "_losses", lambda *_, **__: None)
    ladder = climb(
        recipe=None,
        deployed=None,
        action=Action.RECALIBRATE,
        sites=sites,
        targets=["onnxruntime-cpu"],
    )
    climbing.climb_ladder(MATERIAL, ladder, ["onnxruntime-cpu"], "first", Progress("climb"))
    return built


MATERIAL = ClimbInputs(SampleRef("minilm", "d", "k", 1, 1, {}, ()), "o", None, ())


def test_what_is_only_too_large_leaves_the_smaller_candidates_to_try_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdicts = {"int8-smooth": LARGE, "int8-weights": LARGE, "int4-mixed": LOSSY}
    assert tried(monkeypatch, verdicts) == [
        "int8-smooth",
        "int8-weights",
        "int4-mixed",
        "int4-gptq",
    ]


def test_what_is_only_too_slow_leaves_other_kernels_to_try_and_never_full_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert tried(monkeypatch, {"int8-smooth": SLOW})[:2] == ["int8-smooth", "int8-mixed-2"]
    everything = dict.fromkeys(RECIPES, SLOW)
    built = tried(monkeypatch, everything)
    assert built[-1] == "fp16"
    assert not {"int8-gptq", "int8-trained", "full-precision"} & set(built)


def test_where_no_target_can_be_executed_one_candidate_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert tried(monkeypatch, {"int8-smooth": ABSENT}) == ["int8-smooth"]


def test_a_build_error_is_the_verdict_of_its_target_and_not_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    candidate = climbed("int8-smooth").candidate
    passed = GateReport("onnxruntime-cpu", GOOD)

    def build(_: CandidateRef, target: str) -> EngineRef:
        if target == "tensorrt-rtx":
            raise Refused("tensorrt-rtx cannot express the graph: an operator")
        return EngineRef(target, 1, 0.0, True, "")

    monkeypatch.setattr(climbing.quantization_steps, "write_graph", lambda *_: candidate)
    monkeypatch.setattr(climbing.quantization_steps, "build_engine", build)
    monkeypatch.setattr(climbing.validation_steps, "judge", lambda *_: passed)
    monkeypatch.setattr(
        climbing.validation_steps, "report_unbuilt", lambda _, target, why: unbuilt(target, why)
    )
    recipe = find_recipe("int8-smooth")
    targets = ["tensorrt-rtx", "onnxruntime-cpu"]
    result = climbing._measured(MATERIAL, recipe, targets, None, thorough=False)
    assert [(report.target, report.verdict) for report in result.reports] == [
        ("onnxruntime-cpu", Verdict.PASSED),
        ("tensorrt-rtx", Verdict.ERROR),
    ]
    assert "cannot express the graph" in result.shown.reason
    assert [engine.target for engine in result.engines] == ["onnxruntime-cpu"]


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
