"""The range detector: do the deployed scales still fit the activations of live traffic?

Nothing else notices this. A scale is stale in two ways: live values are clipped, or most of the
range lies idle. Both count only when scales derived anew from live traffic would remove a material
fraction of the quantization error, and when the evidence since the champion came says that many
requests share it: new scales follow no few (ADR 20).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.drift.evidence import Alarms, Evidence, needed, with_window
from tasks.drift.formatting import power_of_ten
from tasks.drift.statistics.betting import log_capitals
from tasks.drift.statistics.streams import Increment, Stream
from tasks.numerics.histogram import CENTRES, EDGES, FINITE_BINS, ExponentHistogram
from tasks.numerics.output_error import squared_error
from tasks.observation.clipped_fraction import Clipping
from tasks.records import DetectorResult, Finding, Health

EXCEEDANCE = 0.005
"""Fraction of live |x| above amax, beyond that on the calibration set: less is a few elements."""
IDLE_BITS = 1.0
"""Bits of the range that live values no longer reach: languages differ by 13-39 % of a maximum."""
CLIPPING_ERROR = 0.02
"""Removable error, a fraction of the signal's energy: 13 % higher maxima cost 1.3 % at most."""
IDLE_ERROR = 0.002
"""The same where range lies idle: milder than clipping, but 27 dB is far from INT8's 40 dB."""
SUPPORT = 0.1
"""Fraction of the requests that have to be clipped, or that may at most reach the idle range."""
MATTERS = 0.01
"""Of the summed sensitivities: stale layers that carry less cost too little to act on."""
ALL = "all layers"
CLIPPED, IDLE = "clipped", "idle"
"""What can be wrong with a scale; the streams of evidence are named by layer and this."""
_TOP = 0.9999
_MOST = 1e6  # a count of infinite activations is no fraction of an energy


@dataclass(frozen=True, slots=True)
class RangeLimits:
    """From where on a layer's scale is stale."""

    exceedance: float = EXCEEDANCE
    clipping_error: float = CLIPPING_ERROR
    idle_bits: float = IDLE_BITS
    idle_error: float = IDLE_ERROR


def judge_ranges(
    live: Mapping[str, ExponentHistogram],
    reference: Mapping[str, ExponentHistogram],
    amax: Mapping[str, float],
    clipping: Clipping,
    *,
    minimum: int = 1,
    limits: RangeLimits | None = None,
    sensitivity: Mapping[str, float] | None = None,
    recovering: Mapping[str, float] | None = None,
    evidence: Evidence | None = None,
    rules: Alarms | None = None,
    floating: Collection[str] = (),
) -> DetectorResult:
    """Judge each layer's deployed scale by the window's live requests.

    A layer is stale when new scales would remove a material error *and* the evidence says that more
    than SUPPORT of the requests are clipped, or that fewer reach the idle half of its range. Where
    rows belong to no known request, the error alone decides. Inconclusive below `minimum` requests
    or when a layer was not observed; fine when nothing is quantized. The first finding sums up all
    layers; the layers follow, the most removable error first. Where sensitivities are known, stale
    layers that together carry less than MATTERS of them are named and do not degrade.

    Args:
        live: Histograms of the window, by layer.
        reference: Histograms of the calibration set.
        amax: The deployed clipping magnitudes: the layers to judge.
        clipping: How much of each request every quantizer clips.
        minimum: Requests that are needed.
        limits: From where on a scale is stale.
        sensitivity: Loss of the model's output when a layer is quantized alone, where it was
            measured: the layers' weights; equal ones otherwise.
        recovering: Shrinks the limits of layers that were stale in the window before, so that they
            do not flicker ("layer conv1" -> 0.5).
        evidence: Since the champion came (`range_increments`); left out, of this window alone.
        rules: When evidence is enough.
        floating: Layers in FP8, which loses nothing where its range lies idle.
    """
    bounds, alarms, count = limits or RangeLimits(), rules or Alarms(), len(clipping.amax)
    if amax and count < minimum:
        return _too_few(count, minimum)
    gathered = evidence or with_window(
        Evidence(), "", None, range_increments(clipping, reference, amax, bounds, floating), alarms
    )
    findings = [
        _judged(
            layer,
            live.get(layer, ExponentHistogram.empty()),
            reference.get(layer),
            clip,
            _limits_of(layer, bounds, recovering or {}, floating),
            {kind: gathered.streams.get(f"{layer} {kind}") for kind in (CLIPPED, IDLE)},
            needed(gathered, alarms),
        )
        for layer, clip in amax.items()
    ]
    findings.sort(key=lambda finding: (not finding.exceeded, -finding.value, finding.subject))
    unobserved = any(layer not in live or not live[layer].total for layer in amax)
    if len(findings) > 1:
        findings.insert(0, aggregated(findings, sensitivity or {}, bounds.clipping_error))
    return DetectorResult("range", _health(findings, unobserved=unobserved), tuple(findings), count)


def _too_few(count: int, minimum: int) -> DetectorResult:
    text = f"{count} requests were observed: {minimum} are needed to judge the scales"
    finding = Finding("requests", count, minimum, False, text)
    return DetectorResult("range", Health.INCONCLUSIVE, (finding,), count)


def _health(findings: Sequence[Finding], *, unobserved: bool) -> Health:
    """Return what the first finding, which sums up the others, comes to."""
    if findings and findings[0].exceeded:
        return Health.DEGRADED
    return Health.INCONCLUSIVE if unobserved else Health.FINE


def range_increments(
    clipping: Clipping,
    reference: Mapping[str, ExponentHistogram],
    amax: Mapping[str, float],
    limits: RangeLimits | None = None,
    floating: Collection[str] = (),
) -> dict[str, Increment]:
    """Return what requests not counted before add to "LAYER clipped" and "LAYER idle".

    Two claims are bet against. At most SUPPORT of the requests lie above the deployed amax with
    more of their values than the calibration set did. At least SUPPORT reach the upper half of what
    the calibration set used of the range. Layers whose rows belong to no known request have none;
    those in FP8 (`floating`) make the first claim alone.
    """
    bounds = limits or RangeLimits()
    increments: dict[str, Increment] = {}
    for place, layer in enumerate(clipping.sites):
        fraction, largest = clipping.fraction[:, place], clipping.amax[:, place]
        if layer not in amax or not np.isfinite(fraction).all():
            continue
        before, clip = reference.get(layer), amax[layer]
        usual = _fraction_above(before, clip) if before else 0.0
        used = min(clip, before.quantile(_TOP)) if before and before.total else clip
        near = used * 2.0**-bounds.idle_bits
        clipped = fraction > usual + bounds.exceedance
        increments[f"{layer} {CLIPPED}"] = _increment(~clipped, 1.0 - SUPPORT, f"above {clip:.6g}")
        if layer not in floating:
            increments[f"{layer} {IDLE}"] = _increment(
                largest >= near, SUPPORT, f"reach {near:.6g}"
            )
    return increments


def _increment(marks: NDArray[np.bool_], least: float, of: str) -> Increment:
    scores = marks.astype(np.float64)
    return Increment(
        f"mean >= {least:g}, {of}", log_capitals(scores, least), len(scores), float(scores.sum())
    )


def aggregated(
    findings: Sequence[Finding], sensitivity: Mapping[str, float], limit: float
) -> Finding:
    """Sum up all layers: the error that new scales would remove, weighted by sensitivity.

    Exceeded when stale layers matter: any, where sensitivities are unknown; otherwise those with
    MATTERS of their sum.
    """
    names = [finding.subject.removeprefix("layer ") for finding in findings]
    has_sensitivity = sum(max(0.0, sensitivity.get(name, 0.0)) for name in names) > 0
    raw = np.array(
        [max(0.0, sensitivity.get(name, 0.0)) if has_sensitivity else 1.0 for name in names]
    )
    weights = raw / raw.sum()
    stale = np.array([finding.exceeded for finding in findings])
    fraction = float(weights[stale].sum())
    removable = float(weights @ np.minimum([finding.value for finding in findings], _MOST))
    how = (
        "weighted by measured sensitivity"
        if has_sensitivity
        else "each layer alike, because sensitivities were not measured"
    )
    matters = bool(stale.any()) and (not has_sensitivity or fraction >= MATTERS)
    text = (
        f"all layers ({how}): new scales would remove an error of "
        f"{100 * removable:.2g} % of the signal's energy; "
        f"{int(stale.sum())} of {len(names)} layers are stale, "
        f"and carry {100 * fraction:.0f} % of the weight"
        f"{'' if matters or not stale.any() else ', too little to act on'}"
    )
    return Finding(ALL, removable, limit, matters, text)


def _limits_of(
    layer: str, limits: RangeLimits, recovering: Mapping[str, float], floating: Collection[str]
) -> RangeLimits:
    limits = _shrunk(limits, recovering.get(f"layer {layer}", 1.0))
    return replace(limits, idle_bits=math.inf) if layer in floating else limits


def _shrunk(limits: RangeLimits, factor: float) -> RangeLimits:
    return RangeLimits(
        limits.exceedance * factor,
        limits.clipping_error * factor,
        limits.idle_bits * factor,
        limits.idle_error * factor,
    )


def relative_error(histogram: ExponentHistogram, clip: float) -> float:
    """Return E[(Q(x) - x)^2] / E[x^2] of symmetric INT8 with this clip; 0 without any signal."""
    counts = histogram.counts[:FINITE_BINS]
    energy = float((counts * np.minimum(CENTRES, histogram.amax) ** 2).sum())
    return squared_error(histogram, clip) * histogram.total / energy if energy else 0.0


def _judged(
    layer: str,
    live: ExponentHistogram,
    reference: ExponentHistogram | None,
    clip: float,
    limits: RangeLimits,
    streams: Mapping[str, Stream | None],
    enough: float,
) -> Finding:
    subject = f"layer {layer}"
    if live.nonfinite:
        text = (
            f"{layer}: {live.nonfinite} live activations are infinite or NaN: "
            "find the requests that cause them"
        )
        return Finding(subject, float(live.nonfinite), 0.0, True, text)
    if not live.total:
        return Finding(
            subject, 0.0, limits.clipping_error, False, f"{layer}: no live activation was observed"
        )
    over = _fraction_above(live, clip) - (_fraction_above(reference, clip) if reference else 0.0)
    over = max(0.0, over) if live.amax > clip else 0.0
    idle = _idle_bits(live, reference, clip)
    removable = relative_error(live, clip) - relative_error(live, live.amax)
    limit = limits.idle_error if idle > limits.idle_bits else limits.clipping_error
    wrong = {CLIPPED: over > limits.exceedance, IDLE: idle > limits.idle_bits}
    shared = any(
        wrong[kind] and (stream is None or stream.alarmed) for kind, stream in streams.items()
    )
    text = (
        f"{layer}: {100 * over:.2g} % more of live |x| than of the calibration set "
        f"lies above the deployed amax {clip:.3g} "
        f"(live maximum {live.amax:.3g}, {idle:.1f} bits idle); "
        "new scales would remove an error of "
        f"{100 * max(0.0, removable):.2g} % of the signal's energy"
    )
    if removable > limit and any(wrong.values()):
        text += _evidence_text(streams[CLIPPED if wrong[CLIPPED] else IDLE], enough)
    return Finding(subject, max(0.0, removable), limit, removable > limit and shared, text)


def _evidence_text(stream: Stream | None, enough: float) -> str:
    if stream is None:
        return ""
    few = "" if stream.alarmed else ", too few requests to act on"
    return (
        f"; evidence that many share it {power_of_ten(stream.statistic)} "
        f"of {power_of_ten(enough)}{few}"
    )


def _fraction_above(histogram: ExponentHistogram, clip: float) -> float:
    """Return the fraction of |x| above the clip, linear inside its bin.

    Unlike `ExponentHistogram.fraction_above`, blind to the exact maximum: values that saturate at
    the clip itself fall into the bin above it, and must do so on both sides to cancel.
    """
    upper = np.append(EDGES[1:], 2.0**128)
    above = np.clip((upper - clip) / (upper - EDGES), 0.0, 1.0)
    return float((histogram.counts[:FINITE_BINS] * above).sum() / max(histogram.total, 1))


def _idle_bits(live: ExponentHistogram, reference: ExponentHistogram | None, clip: float) -> float:
    """Return the bits that neither the live maximum nor the live tail reaches."""
    if not live.amax:
        return 0.0
    idle = np.log2(clip / live.amax)
    if reference is not None and reference.total and live.quantile(_TOP):
        # One outlier of the calibration set that today's sample lacks is no sign of shrinking.
        idle = min(idle, np.log2(max(reference.quantile(_TOP), 1e-300) / live.quantile(_TOP)))
    return max(0.0, float(idle))
