"""Plans of Q/DQ graphs straight from scales, without an observation or a recipe."""

import onnx

from tasks.graphs.sites import Site, layer_weight
from tasks.numerics.quantized_weight import WeightScheme, multiplied, quantize
from tasks.numerics.quantizer import Quantizer
from tasks.observation.scales import Scales
from tasks.quantization.graph.plan import GraphPlan, QuantizedSite


def from_scales(model: onnx.ModelProto, sites: tuple[Site, ...], scales: Scales) -> GraphPlan:
    """Plan INT8 weights, one scale a channel, at every site that has a quantizer.

    Nothing is folded.
    """
    planned = tuple(
        _planned(model, site, scales[site.name]) for site in sites if site.name in scales
    )
    return GraphPlan(model, planned, {})


def _planned(model: onnx.ModelProto, site: Site, quantizer: Quantizer) -> QuantizedSite:
    weights = [layer_weight(model, layer) for layer in site.layers]
    smoothing = quantizer.smoothing_scales
    if smoothing is not None:
        weights = [multiplied(weight, smoothing) for weight in weights]
    rounded = tuple(quantize(weight, WeightScheme()) for weight in weights)
    return QuantizedSite(site, rounded, quantizer, smoothing_scales=smoothing)
