"""Sites that a recipe must not touch, because nothing sound follows for them (ADR 12)."""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from tasks.graphs.integer_regions import SUFFIX
from tasks.graphs.sites import Layer, Site, layer_weight
from tasks.graphs.weights import constant_values
from tasks.numerics.formats import SMALLEST, NumberFormat
from tasks.observation.observer import SiteObservation
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import PerBlockOfToken, Static

_LARGEST = {NumberFormat.FP16: 65504.0, NumberFormat.BF16: 3.3895e38}


def unknown_ranges(
    sites: tuple[Site, ...], observed: Mapping[str, SiteObservation], recipe: Recipe
) -> tuple[str, ...]:
    """Return names of the sites whose fixed range would be a guess.

    Calibration never reached them, or with zeros alone. Weight-only and dynamic recipes fix no
    range, and have none; NVFP4 fixes the scale of a tensor.
    """
    activation = recipe.activation
    of_tensor = isinstance(activation, PerBlockOfToken) and activation.format is NumberFormat.FP4
    if not (of_tensor or isinstance(activation, Static)):
        return ()
    return tuple(site.name for site in sites if observed[site.name].histogram.amax < SMALLEST)


def overflowing(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    format: NumberFormat,
) -> tuple[str, ...]:
    """Return names of the sites that a shorter floating-point format cannot hold.

    It is their input, their constants, or their output on the kept rows that is too large.
    """
    limit = _LARGEST[format]
    constants = {item.name: item for item in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}

    def largest(site: Site) -> float:
        amax, rows = observed[site.name].histogram.amax, observed[site.name].rows
        for layer in site.layers:
            own = (
                constant_values(constants[name])
                for name in nodes[layer.node].input[1:]
                if name in constants
            )
            amax = max([amax, *(float(np.abs(values).max(initial=0.0)) for values in own)])
            if amax <= limit:
                amax = max(amax, _largest_result(model, layer, rows))
        return amax

    return tuple(site.name for site in sites if largest(site) > limit)


def largest_values(
    model: onnx.ModelProto, sites: tuple[Site, ...], observed: Mapping[str, SiteObservation]
) -> dict[str, float]:
    """Return tensor -> largest magnitude that calibration saw of it.

    What layers return is known of the kept rows alone. Whatever else was observed is named after
    its tensor (`tasks.graphs.integer_regions`).
    """
    largest = {
        name.removesuffix(SUFFIX): item.histogram.amax
        for name, item in observed.items()
        if name.endswith(SUFFIX)
    }
    results = {node.name: node.output[0] for node in model.graph.node if node.output}
    for site in sites:
        largest[site.tensor] = observed[site.name].histogram.amax
        for layer in site.layers:
            result = results[layer.node]
            seen = _largest_result(model, layer, observed[site.name].rows)
            largest[result] = max(largest.get(result, 0.0), seen)
    return largest


def _largest_result(model: onnx.ModelProto, layer: Layer, rows: NDArray[np.float32]) -> float:
    """Return the largest magnitude of a layer's products over the kept rows; 0 without any."""
    if not rows.size:
        return 0.0
    return float(np.abs(rows @ layer_weight(model, layer).T).max())


def holds(format: NumberFormat, item: onnx.TensorProto) -> bool:
    """Return whether every value of a constant is finite in a shorter floating-point format."""
    return float(np.abs(constant_values(item)).max(initial=0.0)) <= _LARGEST[format]
