"""What a candidate costs, as ratios to full precision.

Latency, size and peak memory of every model; of a language model how fast it writes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.intervals import median_interval
from tasks.models.decoding.speed import PairedGeneration
from tasks.records import (
    DECODE_THROUGHPUT,
    PREFILL_THROUGHPUT,
    TTFT,
    GateResult,
    Interval,
    Verdict,
)
from tasks.specs.groups import ALL
from tasks.specs.spec import Budgets
from tasks.validation.gates import AT_LEAST, AT_MOST, SHOWN
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


def untimed(budgets: Budgets, reason: str) -> tuple[GateResult, ...]:
    """Say of latency and memory that nobody measured them here, which refuses nothing."""
    bounds = {
        "latency-ratio": budgets.latency_ratio,
        "peak-memory-ratio": budgets.peak_memory_ratio,
    }
    gates = (
        _gate(metric, Verdict.INCONCLUSIVE, None, budget, 0, f"it was not measured: {reason}")
        for metric, budget in bounds.items()
    )
    return tuple(replace(gate, binding=False) for gate in gates)


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
    return _timed_gate(metric, latency.ratios, budget, AT_MOST)


def generation_gates(measured: PairedGeneration, budgets: Budgets) -> tuple[GateResult, ...]:
    """Return `ttft-ratio`, `prefill-throughput-ratio` and `decode-throughput-ratio`.

    Time to first token may be at most so many times full precision's, and tokens a second have to
    be at least so many times. What the spec does not bound is reported and not judged.
    """
    work, before, after = measured.workload, measured.reference, measured.candidate
    read, written = len(work.longest), work.steps
    return (
        _time_to_first_token(measured, budgets.ttft_ratio),
        _throughput_gate(
            PREFILL_THROUGHPUT,
            read,
            before.prefill,
            after.prefill,
            budgets.prefill_throughput_ratio,
        ),
        _throughput_gate(
            DECODE_THROUGHPUT, written, before.decode, after.decode, budgets.decode_throughput_ratio
        ),
    )


def _time_to_first_token(measured: PairedGeneration, budget: float | None) -> GateResult:
    before, after = measured.reference.first_token, measured.candidate.first_token
    figures = (
        f"{np.median(after):.3g} s where full precision takes {np.median(before):.3g} s, "
        f"after a prompt of {len(measured.workload.prompt)} tokens"
    )
    gate = _timed_gate(TTFT, _ratios(after, before), budget or 0.0, AT_MOST, figures)
    return _bounded(replace(gate, measured=float(np.median(after))), budget)


def _throughput_gate(
    metric: str,
    tokens: int,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    budget: float | None,
) -> GateResult:
    """Judge tokens a second, from the seconds that so many tokens took in each round, [R]."""
    served, full = (float(tokens / np.median(side)) for side in (after, before))
    figures = (
        f"{_rate(served)} tokens a second where full precision has {_rate(full)}, "
        f"{tokens} tokens at a time"
    )
    gate = _timed_gate(metric, _ratios(before, after), budget or 0.0, AT_LEAST, figures)
    return _bounded(replace(gate, measured=served), budget)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratios(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(over / under)


def _bounded(gate: GateResult, budget: float | None) -> GateResult:
    return _reported(gate) if budget is None else gate


def _timed_gate(
    metric: str, ratios: NDArray[np.float64], budget: float, direction: str, figures: str = ""
) -> GateResult:
    """Judge the median of paired ratios [R]; `figures` are both sides' own."""
    if not (np.isfinite(ratios).all() and (ratios > 0).all()):
        reason = "a timing is zero, negative or not a number"
        return _gate(metric, Verdict.ERROR, None, budget, ratios.size, reason, direction)
    if ratios.size < MINIMUM_ROUNDS:
        reason = f"only {ratios.size} rounds were timed, and {MINIMUM_ROUNDS} are needed"
        return _gate(metric, Verdict.INCONCLUSIVE, None, budget, ratios.size, reason, direction)
    estimate = median_interval(ratios)
    reason = (
        f"median {estimate.value:.3g} (95 % interval {estimate.low:.3g} to {estimate.high:.3g})"
    )
    verdict = _timed_verdict(estimate, budget, direction)
    text = f"{reason}, {figures}" if figures else reason
    return _gate(metric, verdict, estimate, budget, ratios.size, text, direction)


def _timed_verdict(estimate: Interval, budget: float, direction: str) -> Verdict:
    if direction == AT_MOST:
        keeps, breaks = estimate.value <= budget, estimate.low > budget
    else:
        keeps, breaks = estimate.value >= budget, estimate.high < budget
    if keeps:
        return Verdict.PASSED
    return Verdict.FAILED if breaks else Verdict.INCONCLUSIVE


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
    metric: str,
    verdict: Verdict,
    estimate: Interval | None,
    budget: float,
    count: int,
    reason: str,
    direction: str = AT_MOST,
) -> GateResult:
    text = f"{metric}: {reason}; the budget is {direction} {budget:g}"
    return GateResult(metric, ALL, True, verdict, estimate, budget, direction, count, text)
