"""What a candidate costs, as ratios to full precision: latency, size, peak memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tasks.metrics.intervals import median_interval
from tasks.records import GateResult, Interval, Verdict
from tasks.specs.groups import ALL
from tasks.specs.spec import Budgets
from tasks.validation.gates import AT_MOST, SHOWN
from tasks.validation.latency import PairedLatency

MINIMUM_ROUNDS = 10
"""Fewer timed rounds than this support no verdict."""


@dataclass(frozen=True, slots=True)
class CostPair:
    """One figure of full precision and of the candidate, in the same unit."""

    reference: float
    candidate: float


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured; None where it was not, which is never a pass."""

    latency: PairedLatency | None = None
    size: CostPair | None = None  # bytes of the engine that is loaded
    peak_memory: CostPair | None = None  # bytes


def cost_gates(costs: Costs, budgets: Budgets) -> tuple[GateResult, ...]:
    """Return the three binding gates `latency-ratio`, `size-ratio` and `peak-memory-ratio`."""
    return (
        latency_gate(costs.latency, budgets.latency_ratio),
        size_gate(costs.size, budgets),
        _pair_gate("peak-memory-ratio", costs.peak_memory, budgets.peak_memory_ratio),
    )


def fp16_gates(costs: Costs, budgets: Budgets, *, binding: bool) -> tuple[GateResult, ...]:
    """Return `fp16-latency-ratio`, `fp16-size-ratio` and `fp16-peak-memory-ratio`.

    An INT8 engine that is no faster than FP16 buys nothing with the accuracy that it costs.

    Args:
        costs: Those of an FP16 engine of the full-precision graph, measured in the same session,
            beside the candidate's.
        budgets: What binds; of size and memory, what the spec names alone.
        binding: Whether the candidate multiplies anything shorter than FP16.
    """
    pairs = (
        ("fp16-size-ratio", costs.size, budgets.fp16_size_ratio),
        ("fp16-peak-memory-ratio", costs.peak_memory, budgets.fp16_peak_memory_ratio),
    )
    latency = latency_gate(costs.latency, budgets.fp16_latency_ratio, "fp16-latency-ratio")
    judged = [
        _reported(_pair_gate(metric, pair, 0.0))
        if budget is None
        else _pair_gate(metric, pair, budget)
        for metric, pair, budget in pairs
    ]
    return tuple(gate if binding else replace(gate, binding=False) for gate in (latency, *judged))


def fp16_unmeasured(reason: str, budgets: Budgets) -> tuple[GateResult, ...]:
    """Say why there is no FP16 engine to compare with, which says nothing about a candidate."""
    gate = _gate(
        "fp16-latency-ratio",
        Verdict.INCONCLUSIVE,
        None,
        budgets.fp16_latency_ratio,
        0,
        f"there is no FP16 engine to compare with: {reason}",
    )
    return (replace(gate, binding=False),)


def _reported(gate: GateResult) -> GateResult:
    """Return a figure that nothing judges."""
    text = gate.reason.partition("; the budget is")[0]
    return replace(
        gate,
        binding=False,
        verdict=Verdict.INCONCLUSIVE,
        budget=0.0,
        direction=SHOWN,
        reason=f"{text}, reported and not judged",
    )


def size_gate(size: CostPair | None, budgets: Budgets) -> GateResult:
    """Return the gate on size, which needs no measurement."""
    return _pair_gate("size-ratio", size, budgets.size_ratio)


def latency_gate(
    latency: PairedLatency | None, budget: float, metric: str = "latency-ratio"
) -> GateResult:
    """Judge the median of the paired ratios.

    Unlike quality it passes on the estimate alone. It fails only when the whole interval is over
    the budget: timing noise is the machine's and not the model's. Another run settles what lies
    between.
    """
    if latency is None:
        return _unmeasured(metric, budget)
    ratios = latency.ratios
    if not (np.isfinite(ratios).all() and (ratios > 0).all()):
        return _gate(
            metric,
            Verdict.ERROR,
            None,
            budget,
            ratios.size,
            "a timing is zero, negative or not a number",
        )
    if ratios.size < MINIMUM_ROUNDS:
        reason = f"only {ratios.size} rounds were timed, and {MINIMUM_ROUNDS} are needed"
        return _gate(metric, Verdict.INCONCLUSIVE, None, budget, ratios.size, reason)
    estimate = median_interval(ratios)
    reason = (
        f"median {estimate.value:.3g} (95 % interval {estimate.low:.3g} to {estimate.high:.3g})"
    )
    return _gate(metric, _latency_verdict(estimate, budget), estimate, budget, ratios.size, reason)


def _latency_verdict(estimate: Interval, budget: float) -> Verdict:
    if estimate.value <= budget:
        return Verdict.PASSED
    return Verdict.FAILED if estimate.low > budget else Verdict.INCONCLUSIVE


def _pair_gate(metric: str, pair: CostPair | None, budget: float) -> GateResult:
    if pair is None:
        return _unmeasured(metric, budget)
    if not (
        math.isfinite(pair.reference)
        and math.isfinite(pair.candidate)
        and min(pair.reference, pair.candidate) > 0
    ):
        reason = (
            f"{pair.candidate:g} and {pair.reference:g} bytes are no measurement: "
            "both must be above 0"
        )
        return _gate(metric, Verdict.ERROR, None, budget, 1, reason)
    ratio = pair.candidate / pair.reference
    verdict = Verdict.PASSED if ratio <= budget else Verdict.FAILED
    reason = f"{ratio:.3g} ({pair.candidate:,.0f} of {pair.reference:,.0f} bytes)"
    gate = _gate(metric, verdict, Interval(ratio, ratio, ratio), budget, 1, reason)
    return replace(gate, measured=pair.candidate)


def _unmeasured(metric: str, budget: float) -> GateResult:
    return _gate(metric, Verdict.INCONCLUSIVE, None, budget, 0, "it was not measured")


def _gate(
    metric: str, verdict: Verdict, estimate: Interval | None, budget: float, count: int, reason: str
) -> GateResult:
    text = f"{metric}: {reason}; the budget is {AT_MOST} {budget:g}"
    return GateResult(metric, ALL, True, verdict, estimate, budget, AT_MOST, count, text)
