"""The explicit Q/DQ graph: the one place where precision lives (DESIGN.md, D1).

Inputs of weighted layers get QuantizeLinear and DequantizeLinear (S8, zero-point 0, per-tensor); weights become S8 with
one scale per output channel. Nothing is put on outputs: that is what ruins the usual defaults.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from infra.errors import BadInput
from tasks.observation.scales import Scales, check_scales
from tasks.observation.sites import Layer, Site, layer_weight
from tasks.quantization.smoothing import weight_scales


def write(model: onnx.ModelProto, sites: tuple[Site, ...], scales: Scales) -> onnx.ModelProto:
    """A copy of the model in which every site with a quantizer is INT8; the others are untouched.

    Raises `BadInput` when a scale is not a positive finite number.
    """
    check_scales(scales, where="the Q/DQ graph")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = {node.name: node for node in copy.graph.node}
    before: dict[str, list[onnx.NodeProto]] = {}
    replaced: set[str] = set()
    for site in sites:
        if site.name not in scales:
            continue
        divisors = scales[site.name].divisors
        first = site.layers[0].node
        before[first] = _quantize_activation(copy.graph, site, np.float32(scales[site.name].scale), divisors)
        for layer in site.layers:
            node = nodes[layer.node]
            node.input[0] = f"{site.tensor}.dequantized"
            before.setdefault(layer.node, []).append(_quantize_weight(copy.graph, model, layer, divisors))
            node.input[1] = f"{layer.node}.weight.dequantized"
            replaced.add(layer.weight)
    _insert(copy.graph, before)
    _drop_unused(copy.graph, replaced)
    return copy


def rescale(qdq: onnx.ModelProto, sites: tuple[Site, ...], scales: Scales) -> onnx.ModelProto:
    """The same Q/DQ graph with new activation scales: weights, placement and smoothing stay (DESIGN.md, D7).

    Raises `BadInput` when a scale is not a positive finite number, or the graph quantizes other sites.
    """
    check_scales(scales, where="the Q/DQ graph")
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    wanted = {f"{site.tensor}.scale": scales[site.name].scale for site in sites if site.name in scales}
    present = {node.input[1] for node in copy.graph.node if node.op_type == "QuantizeLinear"}
    if present != set(wanted):
        odd = sorted(present ^ set(wanted))
        raise BadInput(f"the Q/DQ graph and the new scales differ in {odd[0]} ({len(odd)} in all): write a new graph")
    for item in copy.graph.initializer:
        if item.name in wanted:
            item.CopyFrom(numpy_helper.from_array(np.float32(wanted[item.name]), item.name))
    return copy


def _quantize_activation(
    graph: onnx.GraphProto, site: Site, scale: np.float32, divisors: NDArray[np.float32] | None
) -> list[onnx.NodeProto]:
    name, source, nodes = site.tensor, site.tensor, []
    if divisors is not None:
        graph.initializer.append(numpy_helper.from_array((1 / divisors).astype(np.float32), f"{name}.smoothing"))
        source = f"{name}.smoothed"
        nodes.append(helper.make_node("Mul", [name, f"{name}.smoothing"], [source], f"{name}.smooth"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
    graph.initializer.append(numpy_helper.from_array(np.int8(0), f"{name}.zero_point"))
    qparams = [f"{name}.scale", f"{name}.zero_point"]
    quantized, restored = f"{name}.quantized", f"{name}.dequantized"
    nodes.append(helper.make_node("QuantizeLinear", [source, *qparams], [quantized], f"{name}.quantize"))
    nodes.append(helper.make_node("DequantizeLinear", [quantized, *qparams], [restored], f"{name}.dequantize"))
    return nodes


def _quantize_weight(
    graph: onnx.GraphProto, model: onnx.ModelProto, layer: Layer, divisors: NDArray[np.float32] | None
) -> onnx.NodeProto:
    weight = layer_weight(model, layer)
    if divisors is not None:
        weight = weight * divisors
    scale = weight_scales(weight)
    levels = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
    name = f"{layer.node}.weight"
    stored = np.ascontiguousarray(np.moveaxis(levels, 0, layer.output_axis))
    graph.initializer.append(numpy_helper.from_array(stored, f"{name}.quantized"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}.zero_point"))
    return helper.make_node(
        "DequantizeLinear",
        [f"{name}.quantized", f"{name}.scale", f"{name}.zero_point"],
        [f"{name}.dequantized"],
        f"{name}.dequantize",
        axis=layer.output_axis,
    )


def _insert(graph: onnx.GraphProto, before: dict[str, list[onnx.NodeProto]]) -> None:
    ordered = []
    for node in graph.node:
        ordered += [*before.get(node.name, []), node]
    del graph.node[:]
    graph.node.extend(ordered)


def _drop_unused(graph: onnx.GraphProto, candidates: set[str]) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name not in candidates or item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
