"""What somebody who reads a candidate's report should know of its scales.

One sentence a kind of finding.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.graphs.sites import Site, layer_weight
from tasks.numerics.formats import NumberFormat, PerBlock, ScaleFormat
from tasks.numerics.histogram import FINITE_BINS, ExponentHistogram
from tasks.numerics.quantized_weight import QuantizedWeight, WeightScheme
from tasks.numerics.quantizer import Quantizer
from tasks.observation.observer import SiteObservation
from tasks.quantization.activation.ranges import FEW
from tasks.quantization.graph.plan import GraphPlan, QuantizedSite
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.sensitivity.measure import Sensitivity

ERASED = 0.95
"""Share of the values other than zero that become zero; INT8 at its usual erases a few per cent."""
LEAST = 8
"""Weights other than zero that an output channel must have to be judged."""
NAMED = 3
DRIFTED, WORSE = 2.0, 1.25
"""Times the output error of the other quantizer from which a site is named."""


def observation_diagnostics(
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    unknown: Collection[str],
    quantized: Collection[str],
) -> tuple[str, ...]:
    """Tell what calibration saw; `unknown` have no range to fix, `quantized` got one."""
    histograms = {site.name: observed[site.name].histogram for site in sites}
    unreached = [name for name in unknown if not histograms[name].total]
    zeros = [name for name in unknown if histograms[name].total]
    level = [name for name in quantized if _occupied(histograms[name]) == 1]
    few = [name for name in quantized if 0 < histograms[name].total < FEW]
    verb = (
        "keep the champion's range" if set(unknown) & set(quantized) else "stay in floating point"
    )
    return _sentences(
        (
            unreached,
            f"never reached by the calibration set: they {verb}, because a range would be a guess",
        ),
        (
            zeros,
            f"only seen at zero: they {verb}, because any new range would clip whatever else comes",
        ),
        (level, "seen at one magnitude only: the range has no room for anything larger"),
        (few, f"calibrated on fewer than {FEW} values: sample more traffic for surer ranges"),
    )


def scale_diagnostics(
    plan: GraphPlan, reference: Mapping[str, ExponentHistogram], scales: Mapping[str, Quantizer]
) -> tuple[str, ...]:
    """Tell of scales that erase nearly everything.

    One outlier sets the step, and the rest rounds to zero.
    """
    activations = [
        f"{name} ({erased_fraction(reference[name], item):.1%} of its values, "
        f"the largest is {reference[name].amax:.3g})"
        for name, item in scales.items()
        if erased_fraction(reference[name], item) >= ERASED
    ]
    weights = [
        f"{layer.name} ({count} of {len(weight.values)} output channels)"
        for item in plan.sites
        if isinstance(item, QuantizedSite)
        for layer, weight in zip(item.site.layers, item.weights, strict=True)
        if (
            count := int((erased_channels(layer_weight(plan.model, layer), weight) >= ERASED).sum())
        )
    ]
    return _sentences(
        (
            activations,
            "rounded to zero in their activations by outliers: where quality is lost, "
            "clip them or keep the sites high",
        ),
        (
            weights,
            "rounded to zero in their weights by outliers: where quality is lost, "
            "keep the sites high",
        ),
    )


def drift_diagnostics(ranking: Sequence[Sensitivity], *, scales_alone: bool) -> tuple[str, ...]:
    """Tell where the champion's quantizers lose most on new traffic, and where new ones lose more.

    A site drifts when the champion's quantizer has DRIFTED times the output error of the new one.
    `scales_alone` tells that smoothing scales were kept, which may be why new ranges lose more.
    """
    drifted = sorted(
        (item for item in ranking if item.stale and item.stale > DRIFTED * item.error),
        key=lambda item: -((item.stale or 0.0) - item.error),
    )
    worse = sorted(
        (item for item in ranking if item.stale and item.error > WORSE * item.stale),
        key=lambda item: (item.stale or 0.0) - item.error,
    )
    return _sentences(
        ([_told(item) for item in drifted], "the champion's quantizers drifted most there"),
        (
            [_told(item) for item in worse if scales_alone],
            "new scales lose more than the champion's there, under smoothing that follows from "
            "other traffic: the recipe resmooth renews both",
        ),
    )


def _told(item: Sensitivity) -> str:
    return f"{item.site} (output error {item.stale:.2g} before, {item.error:.2g} now)"


def exclusion_diagnostics(
    overflow: Sequence[str],
    format: NumberFormat,
    untrained: Sequence[str],
    uncorrected: Sequence[str] = (),
) -> tuple[str, ...]:
    """Tell of sites that a recipe could not treat as it treats the others."""
    return _sentences(
        (overflow, f"beyond what {format} can hold: they stay in {NumberFormat.FP32}"),
        (
            untrained,
            "not trained, because too few of their rows were kept, and of a convolution none are",
        ),
        (uncorrected, "not corrected, because nothing was kept of their channels' joint values"),
    )


def raised_diagnostics(recipe: Recipe, raised: Sequence[str], sites: int) -> tuple[str, ...]:
    """Tell which sites have weights in more bits, of a recipe with a mean of bits."""
    if recipe.raised is None or not raised:
        return ()
    named = f"{', '.join(raised[:3])}{', ...' if len(raised) > 3 else ''}"
    return (
        f"{len(raised)} of {sites} sites have weights in {recipe.raised.weights.format}, so that "
        f"a weight has {recipe.raised.bits:g} bits at most on average: {named}",
    )


def block_diagnostics(plan: GraphPlan, recipe: Recipe) -> tuple[str, ...]:
    """Tell of layers whose inputs are no whole blocks, of a recipe of floats in blocks."""
    weights = recipe.weights
    if not isinstance(weights, WeightScheme) or weights.scales is ScaleFormat.FP32:
        return ()
    size = weights.granularity.size if isinstance(weights.granularity, PerBlock) else 1
    broken = [
        layer.name
        for item in plan.sites
        if isinstance(item, QuantizedSite)
        for layer, weight in zip(item.site.layers, item.weights, strict=True)
        if len(weight.shape) > 2 or weight.shape[1] % size or weight.shape[1] <= size
    ]
    text = f"no two or more whole blocks of {size} inputs: weights in INT8, activations in floats"
    return _sentences((broken, text))


def product_diagnostics(recipe: Recipe) -> tuple[str, ...]:
    """Say what ONNX Runtime multiplies weights with that have a scale a block."""
    weights = recipe.weights
    if recipe.activation is not None or not isinstance(weights, WeightScheme):
        return ()
    if not isinstance(weights.granularity, PerBlock):
        return ()
    with_what = "activations rounded to INT8" if recipe.int8_products else "floats"
    return (f"ONNX Runtime multiplies the weights in blocks with {with_what}",)


def erased_fraction(histogram: ExponentHistogram, quantizer: Quantizer) -> float:
    """Return the fraction of the values other than zero that become zero, 0..1.

    These are nearer to zero than to the first quantized value.
    """
    nonzero = int(histogram.counts[1:FINITE_BINS].sum())
    if not nonzero:
        return 0.0
    first = quantizer.scale * (2.0**-9 if quantizer.format is NumberFormat.FP8 else 1.0)
    return max(0.0, 1.0 - histogram.fraction_above(first / 2) * histogram.total / nonzero)


def erased_channels(weight: NDArray[np.float32], quantized: QuantizedWeight) -> NDArray[np.float64]:
    """Return the same of each output channel of a weight [outputs, inputs...] -> [outputs].

    0 where there are few weights.
    """
    flat = weight.reshape(len(weight), -1)
    values = quantized.shifted()
    alive = (flat != 0).sum(axis=1)
    lost = ((flat != 0) & (values == 0)).sum(axis=1)
    return np.where(alive >= LEAST, lost / np.maximum(alive, 1), 0.0)


def _occupied(histogram: ExponentHistogram) -> int:
    """Count bins that hold anything; zeros share the first with the subnormal numbers."""
    return int(np.count_nonzero(histogram.counts[:FINITE_BINS]))


def _sentences(*findings: tuple[Sequence[str], str]) -> tuple[str, ...]:
    return tuple(f"{_listed(names)}: {text}" for names, text in findings if names)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
