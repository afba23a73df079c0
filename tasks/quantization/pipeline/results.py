"""Quantizers of what layers make, for the target that computes whole regions in integers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import onnx

from infra.engines.port import each_profile
from tasks.graphs.distinguished import distinguished_values
from tasks.graphs.integer_regions import SUFFIX, find_region
from tasks.graphs.sites import OPS
from tasks.numerics.formats import SMALLEST, NumberFormat
from tasks.numerics.quantizer import Quantizer
from tasks.observation.observer import SiteObservation
from tasks.observation.scales import Scales
from tasks.quantization.activation.quantizers import SiteQuantizer, quantizer
from tasks.quantization.activation.result_ranges import clipped, narrowed
from tasks.quantization.activation.scale_limits import limit_changes
from tasks.quantization.graph.plan import GraphPlan, QuantizedSite
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import RangeRule, Static
from tasks.quantization.sensitivity.integer_placement import (
    KernelEvidence,
)


def result_quantizers(
    model: onnx.ModelProto,
    plan: GraphPlan,
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    floats: Collection[str] = (),
    tolerance: float | None = None,
) -> dict[str, Quantizer]:
    """Return a quantizer for every tensor of the regions around the plan's convolutions.

    A recipe whose rule is not the largest magnitude clips at the 99.99th percentile: rules that
    weigh a clip against a symmetric step clip tensors with a zero-point too far. They have a
    zero-point, as only a target that takes one reads them. A tensor that calibration
    did not see, or saw as zeros alone, has none; nor has one that smoothing scales divided. None
    reaches beyond what its readers tell apart.

    Args:
        model: The full-precision graph that was observed.
        plan: The sites that are quantized.
        observed: What each tensor saw, by site name.
        recipe: Whose range rule holds.
        floats: Nodes of convolutions that this target computes in floating point.
        tolerance: Clip by squared error, as `clipped` does; None: by the recipe's rule.
    """
    scheme = recipe.activation
    if not isinstance(scheme, Static) or scheme.format is not NumberFormat.INT8:
        return {}
    rule = RangeRule.MAX if scheme.rule is RangeRule.MAX else RangeRule.PERCENTILE
    asymmetric = replace(scheme, symmetric=False, rule=rule)
    region = find_region(plan.model, integer_layers(plan) - set(floats))
    divided, ends = divided_tensors(model, plan.model), distinguished_values(plan.model)
    results: dict[str, Quantizer] = {}
    for tensor in region.results:
        seen = observed.get(f"{tensor}{SUFFIX}")
        if seen is None or seen.histogram.amax < SMALLEST or tensor in divided:
            continue
        shared = results.get(region.moved.get(tensor, ""))
        own = quantizer(seen, asymmetric) if tolerance is None else clipped(seen, tolerance)
        results[tensor] = shared or narrowed(own, ends.get(tensor))
    return results


def limited_results(results: Scales, deployed: Scales, largest: float) -> dict[str, Quantizer]:
    """Return the results' quantizers, none further than `largest` times from the deployed one."""
    choices = {name: SiteQuantizer(item) for name, item in results.items()}
    limited, _ = limit_changes(choices, deployed, largest)
    return {name: item.activation for name, item in limited.items() if item.activation is not None}


def integer_layers(plan: GraphPlan) -> set[str]:
    """Return the nodes of convolutions that a target may compute in integers."""
    return {
        layer.node
        for item in plan.sites
        if isinstance(item, QuantizedSite)
        and item.activation is not None
        and all(weight.format is NumberFormat.INT8 for weight in item.weights)
        for layer in item.site.layers
        if layer.op == "Conv"
    }


def divided_tensors(model: onnx.ModelProto, folded: onnx.ModelProto) -> set[str]:
    """Return the tensors that folded smoothing scales changed, up to the layers that undo it."""
    if model is folded:
        return set()
    before = {item.name: item for item in model.graph.initializer}
    changed = {item.name for item in folded.graph.initializer if item != before.get(item.name)}
    divided: set[str] = set()
    for node in folded.graph.node:
        names = set(node.input)
        if names & changed or (names & divided and node.op_type not in OPS):
            divided.update(node.output)
    return divided


def common_shapes(evidence: KernelEvidence) -> dict[str, tuple[int, ...]]:
    """Return input -> the shape of one case of its common size."""
    shapes = each_profile(evidence.inputs.profile)[0].items()
    return {name: (1, *shape.common[1:]) for name, shape in shapes}
