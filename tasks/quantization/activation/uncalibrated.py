"""Sites that a recipe must not touch, because nothing sound follows for them (docs/adr/0012)."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from tasks.graphs.sites import Site, layer_weight
from tasks.numerics.formats import SMALLEST, NumberFormat
from tasks.observation.observer import SiteObservation
from tasks.quantization.recipe.catalog import Recipe

_LARGEST = {NumberFormat.FP16: 65504.0, NumberFormat.BF16: 3.3895e38}


def unknown_ranges(
    sites: tuple[Site, ...], observed: Mapping[str, SiteObservation], recipe: Recipe
) -> tuple[str, ...]:
    """Names of the sites whose fixed range would be a guess: calibration never reached them, or with zeros alone.

    Weight-only and dynamic recipes fix no range, and have none.
    """
    if recipe.activations is None or recipe.activations.dynamic:
        return ()
    return tuple(site.name for site in sites if observed[site.name].histogram.amax < SMALLEST)


def overflowing(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    format: NumberFormat,
) -> tuple[str, ...]:
    """Names of the sites that a shorter floating-point format cannot hold: input, constants, or output on the rows."""
    largest = _LARGEST[format]
    constants = {item.name: item for item in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}

    def reach(site: Site) -> float:
        seen, rows = observed[site.name].histogram.amax, observed[site.name].rows
        for layer in site.layers:
            own = (
                numpy_helper.to_array(constants[name])
                for name in nodes[layer.node].input[1:]
                if name in constants
            )
            seen = max([seen, *(float(np.abs(one).max(initial=0.0)) for one in own)])
            if rows.size and seen <= largest:
                seen = max(seen, float(np.abs(rows @ layer_weight(model, layer).T).max()))
        return seen

    return tuple(site.name for site in sites if reach(site) > largest)


def holds(format: NumberFormat, item: onnx.TensorProto) -> bool:
    """Whether every value of a constant is finite in a shorter floating-point format."""
    return float(np.abs(numpy_helper.to_array(item)).max(initial=0.0)) <= _LARGEST[format]
