"""Cost verdicts: what was not measured never passes, and timing noise alone never fails."""

import numpy as np
import pytest

from tasks.models.decoding.speed import GenerationTimes, PairedGeneration, Workload
from tasks.records import OF_GENERATION, GateReport, Verdict
from tasks.specs.spec import Budgets, QualityBudget
from tasks.validation.costs import (
    CostPair,
    Costs,
    cost_gates,
    fp16_gates,
    fp16_unmeasured,
    generation_gates,
    latency_gate,
)
from tasks.validation.latency import PairedLatency

BUDGETS = Budgets(
    latency_ratio=0.8,
    size_ratio=0.5,
    peak_memory_ratio=1.0,
    quality=(QualityBudget(metric="cosine", at_least=0.9),),
)


def latency(ratios: list[float] | np.ndarray) -> PairedLatency:
    reference = np.full(len(ratios), 0.01)
    return PairedLatency(reference, reference * np.asarray(ratios))


def test_a_cheap_candidate_passes_every_cost_gate() -> None:
    costs = Costs(latency([0.5] * 30), CostPair(1000, 300), CostPair(1000, 900))
    gates = cost_gates(costs, BUDGETS)
    assert [gate.metric for gate in gates] == ["latency-ratio", "size-ratio", "peak-memory-ratio"]
    assert GateReport("t", gates).verdict is Verdict.PASSED


def test_what_was_not_measured_is_inconclusive() -> None:
    gates = cost_gates(Costs(), BUDGETS)
    assert {gate.verdict for gate in gates} == {Verdict.INCONCLUSIVE}
    assert all(gate.binding and gate.estimate is None for gate in gates)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([0.7] * 30, Verdict.PASSED),
        (
            [0.7] * 16 + [1.5] * 14,
            Verdict.PASSED,
        ),  # the median keeps it, though the interval straddles
        ([0.7] * 14 + [0.9] * 16, Verdict.INCONCLUSIVE),
        ([0.9] * 30, Verdict.FAILED),
        ([0.1] * 5, Verdict.INCONCLUSIVE),
        ([], Verdict.INCONCLUSIVE),
        ([0.7] * 29 + [float("nan")], Verdict.ERROR),
        ([0.7] * 29 + [0.0], Verdict.ERROR),
        ([0.7] * 29 + [-0.1], Verdict.ERROR),
    ],
)
def test_latency_is_judged_by_the_median_of_paired_ratios(
    ratios: list[float], verdict: Verdict
) -> None:
    assert latency_gate(latency(ratios), 0.8).verdict is verdict


def test_a_reference_that_took_no_time_is_an_error() -> None:
    stopped = PairedLatency(np.zeros(30), np.ones(30))
    assert latency_gate(stopped, 100.0).verdict is Verdict.ERROR


@pytest.mark.parametrize(
    ("reference", "candidate", "verdict"),
    [
        (100, 50, Verdict.PASSED),
        (100, 51, Verdict.FAILED),
        (0, 50, Verdict.ERROR),
        (100, 0, Verdict.ERROR),
        (float("nan"), 1, Verdict.ERROR),
        (1, float("inf"), Verdict.ERROR),
    ],
)
def test_sizes_are_judged_exactly(reference: float, candidate: float, verdict: Verdict) -> None:
    assert cost_gates(Costs(size=CostPair(reference, candidate)), BUDGETS)[1].verdict is verdict


def test_the_reason_holds_the_figures() -> None:
    gate = cost_gates(Costs(size=CostPair(2_000_000, 500_000)), BUDGETS)[1]
    assert gate.reason == "size-ratio: 0.25 (500,000 of 2,000,000 bytes); the budget is at most 0.5"


BESIDE_FP16 = Costs(latency([1.2] * 30), CostPair(1000, 700), CostPair(1000, 900))


def test_int8_that_is_no_faster_than_fp16_is_refused() -> None:
    gates = fp16_gates(BESIDE_FP16, BUDGETS, binding=True)
    assert gates[0].metric == "fp16-latency-ratio"
    assert GateReport("t", gates).verdict is Verdict.FAILED
    assert gates[0].reason.startswith("fp16-latency-ratio: median 1.2")


def test_size_and_memory_beside_fp16_are_figures_unless_the_spec_has_budgets() -> None:
    reported = fp16_gates(BESIDE_FP16, BUDGETS, binding=True)[1:]
    assert all(gate.reported and not gate.binding for gate in reported)
    assert reported[0].reason == (
        "fp16-size-ratio: 0.7 (700 of 1,000 bytes), reported and not judged"
    )
    strict = BUDGETS.model_copy(update={"fp16_size_ratio": 0.6, "fp16_peak_memory_ratio": 0.95})
    size, memory = fp16_gates(BESIDE_FP16, strict, binding=True)[1:]
    assert (size.verdict, memory.verdict) == (Verdict.FAILED, Verdict.PASSED)
    assert size.binding


def test_another_fp16_engine_has_not_to_be_faster_than_one() -> None:
    assert not any(gate.binding for gate in fp16_gates(BESIDE_FP16, BUDGETS, binding=False))


def test_without_an_fp16_engine_nothing_is_said_about_the_candidate() -> None:
    (gate,) = fp16_unmeasured("it was refused", BUDGETS)
    assert (gate.binding, gate.verdict) == (False, Verdict.INCONCLUSIVE)
    assert "no FP16 engine to compare with: it was refused" in gate.reason


def generation(faster: float, rounds: int = 15) -> PairedGeneration:
    """Return full precision and a candidate so many times as fast."""
    seconds = [np.full(rounds, second) for second in (0.3, 0.5, 0.4)]
    return PairedGeneration(
        Workload(tuple(range(40)), tuple(range(100)), 8),
        GenerationTimes(*seconds),
        GenerationTimes(*(part / faster for part in seconds)),
    )


def test_how_fast_a_language_model_writes_is_reported_unless_the_spec_bounds_it() -> None:
    gates = generation_gates(generation(2.0), BUDGETS)
    assert [gate.metric for gate in gates] == [*OF_GENERATION]
    assert all(gate.reported and not gate.binding for gate in gates)
    assert [gate.measured for gate in gates] == pytest.approx([0.15, 400, 40])
    assert gates[2].reason == (
        "decode-throughput-ratio: median 2 (95 % interval 2 to 2), 40 tokens a second where full "
        "precision has 20, 8 tokens at a time, reported and not judged"
    )
    assert GateReport("t", gates).generation_speed == (
        "time to first token 0.15 s (0.50 x), prefill 400 tokens/s (2.00 x), decode 40 tokens/s "
        "(2.00 x); of full precision's in brackets"
    )


@pytest.mark.parametrize(("faster", "verdict"), [(2.0, Verdict.PASSED), (1.2, Verdict.FAILED)])
def test_a_bound_on_how_fast_it_writes_binds(faster: float, verdict: Verdict) -> None:
    bounds = {"ttft_ratio": 0.6, "prefill_throughput_ratio": 1.5, "decode_throughput_ratio": 1.5}
    gates = generation_gates(generation(faster), BUDGETS.model_copy(update=bounds))
    assert {gate.verdict for gate in gates} == {verdict}
    assert all(gate.binding for gate in gates)
    assert "the budget is at least 1.5" in gates[1].reason


def test_too_few_rounds_of_writing_are_inconclusive() -> None:
    bounded = BUDGETS.model_copy(update={"decode_throughput_ratio": 1.0})
    assert generation_gates(generation(2.0, 3), bounded)[2].verdict is Verdict.INCONCLUSIVE
