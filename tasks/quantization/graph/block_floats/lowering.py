"""What floats in blocks become for each target (ADR 54).

TensorRT has operators of its own for rounding at run time, and for scales that are powers of two,
whose type its parser refuses (`findings/tensorrt_rtx_multiplies_mxfp8_in_floats.sh`). ONNX
Runtime's CPU has no floats of 4 bits: it gets the same values in 8, which hold them exactly.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tasks.graphs.weights import Constant, constant_values, constants_for
from tasks.numerics.block_floats import MX_BLOCK, NVFP4_BLOCK, powers_of_two
from tasks.quantization.graph.block_floats.functions import DOMAIN, MXFP8

_TRT = "trt"
_BIAS = 127
"""Of E8M0: 127 is 2^0."""


def in_tensorrt_operators(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with TensorRT's operators in place of the functions."""
    if not any(node.domain == DOMAIN for node in qdq.graph.node):
        return qdq
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    graph, constant = copy.graph, constants_for(copy)
    parts = {item.name: item for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.domain == DOMAIN:
            nodes += _dynamic(node, _before_widening(node.input[0], makers))
        elif _has_powers_of_two(node, parts):
            nodes.append(_restored_by_powers(graph, node, parts, constant))
        else:
            nodes.append(node)
    _replace(copy, nodes)
    kept = [item for item in copy.opset_import if item.domain != DOMAIN]
    del copy.opset_import[:], copy.functions[:]
    copy.opset_import.extend([*kept, helper.make_opsetid(_TRT, 1)])
    return copy


def without_four_bit_floats(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with weights of 4-bit floats in 8-bit ones, one scale a block in float32."""
    if not any(item.data_type == TensorProto.FLOAT4E2M1 for item in qdq.graph.initializer):
        return qdq
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    graph, constant = copy.graph, constants_for(copy)
    parts = {item.name: item for item in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    nodes = []
    for node in graph.node:
        scales = makers.get(node.input[1]) if node.op_type == "DequantizeLinear" else None
        if node.op_type == "DequantizeLinear" and _is_four_bits(node, parts):
            values = constant_values(parts[node.input[0]]).astype(np.float32)
            wide = constant(values.astype(ml_dtypes.float8_e4m3fn), f"{node.input[0]}.float")
            graph.initializer.append(wide)
            node.input[0] = wide.name
            if scales is not None and scales.op_type == "DequantizeLinear":
                short, whole = (constant_values(parts[name]) for name in scales.input)
                graph.initializer.append(
                    constant(short.astype(whole.dtype) * whole, f"{scales.output[0]}.float")
                )
                node.input[1] = f"{scales.output[0]}.float"
        nodes.append(node)
    _replace(copy, nodes)
    return copy


def _is_four_bits(node: onnx.NodeProto, parts: dict[str, TensorProto]) -> bool:
    values = parts.get(node.input[0])
    return values is not None and values.data_type == TensorProto.FLOAT4E2M1


def _before_widening(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """Return what a tensor was in a shorter float: TensorRT's operators read that as well."""
    maker = makers.get(name)
    if maker is not None and maker.op_type == "Cast" and name == f"{maker.input[0]}.float":
        return str(maker.input[0])
    return name


def _dynamic(node: onnx.NodeProto, source: str) -> list[onnx.NodeProto]:
    """Return TensorRT's operators for one call of a function, MXFP8's or NVFP4's."""
    result, name = node.output[0], node.name
    short, scales = f"{name}.quantized", f"{name}.scale"
    if node.op_type == MXFP8:
        options = {"axis": -1, "block_size": MX_BLOCK}
        quantized = {**options, "output_dtype": TensorProto.FLOAT8E4M3FN}
        restored = {**options, "output_dtype": TensorProto.FLOAT}
        return [
            _trt("TRT_MXFP8DynamicQuantize", [source], [short, scales], name, quantized),
            _trt(
                "TRT_MXFP8DequantizeLinear", [short, scales], [result], f"{name}.restore", restored
            ),
        ]
    whole, wide = node.input[1], f"{name}.scale.dequantized"
    options = {"axis": -1, "block_size": NVFP4_BLOCK}
    quantized = {**options, "scale_type": TensorProto.FLOAT8E4M3FN}
    return [
        _trt("TRT_FP4DynamicQuantize", [source, whole], [short, scales], name, quantized),
        helper.make_node("DequantizeLinear", [scales, whole], [wide], f"{scales}.dequantize"),
        helper.make_node("DequantizeLinear", [short, wide], [result], f"{name}.restore", **options),
    ]


def _trt(
    op: str, inputs: list[str], outputs: list[str], name: str, options: dict[str, int]
) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, name, domain=_TRT, **options)


def _has_powers_of_two(node: onnx.NodeProto, parts: dict[str, TensorProto]) -> bool:
    """Return whether a node restores weights of an MX format in 8 bits."""
    if node.op_type != "DequantizeLinear" or not set(node.input[:2]) <= set(parts):
        return False
    blocks = any(item.name == "block_size" and item.i == MX_BLOCK for item in node.attribute)
    if not blocks or parts[node.input[0]].data_type != TensorProto.FLOAT8E4M3FN:
        return False
    scales = constant_values(parts[node.input[1]])
    return scales.dtype == np.float32 and bool((powers_of_two(scales) == scales).all())


def _restored_by_powers(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    parts: dict[str, TensorProto],
    constant: Constant,
) -> onnx.NodeProto:
    scales: NDArray[np.float32] = constant_values(parts[node.input[1]])
    exponents = np.frexp(scales)[1] - 1 + _BIAS
    name = f"{node.input[1]}.integer"
    graph.initializer.append(constant(exponents.astype(np.uint8), name))
    options = {item.name: item.i for item in node.attribute}
    options["output_dtype"] = TensorProto.FLOAT
    inputs, outputs = [node.input[0], name], list(node.output)
    return _trt("TRT_MXFP8DequantizeLinear", inputs, outputs, node.name, options)


def _replace(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes in place of a graph's, but those that nobody reads; constants likewise."""
    graph = model.graph
    read = {name for node in nodes for name in node.input} | {item.name for item in graph.output}
    kept = [node for node in nodes if set(node.output) & read]
    used = {name for node in kept for name in node.input} | {item.name for item in graph.output}
    constants = [item for item in graph.initializer if item.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
