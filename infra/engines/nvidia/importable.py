"""What TensorRT's parser takes without a word, and must not: it is refused before the parser.

A scale of infinity or of a number too small to divide by builds, and answers nonsense. Unsigned
activations are read as signed ones (`findings/tensorrt_rtx_takes_uint8_and_infinite_scales.sh`).
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from infra.errors import Refused
from infra.settings import settings
from infra.weights.naming import is_beside

_UNSIGNED = (TensorProto.UINT8, TensorProto.UINT4, TensorProto.UINT16)
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def require_importable(name: str, graph: bytes) -> None:
    """Raise `Refused` naming the first node whose scale or type the parser would misread.

    Bytes that are no graph are left to the parser.
    """
    try:
        model = onnx.load_from_string(graph)
    except Exception:  # whatever protobuf raises; the parser says what is wrong with the bytes
        return
    constants = {item.name: item for item in model.graph.initializer}
    inputs = {item.name: item.type.tensor_type.elem_type for item in model.graph.input}
    for node in model.graph.node:
        if node.op_type in _QUANTIZERS:
            reason = _unsigned(node, constants, inputs) or _unscaled(node, constants)
            if reason is not None:
                raise Refused(f"{name} cannot express the graph: node {node.name}: {reason}")


def _unsigned(
    node: onnx.NodeProto, constants: dict[str, TensorProto], inputs: dict[str, int]
) -> str | None:
    """Say that an activation is unsigned; of a constant, which the parser refuses, nothing."""
    if node.op_type == "DequantizeLinear":
        unsigned = inputs.get(node.input[0]) in _UNSIGNED
    elif len(node.input) > 2 and node.input[2]:
        zero = constants.get(node.input[2])  # None: another node's
        unsigned = zero is not None and zero.data_type in _UNSIGNED
    else:  # ONNX: uint8 where nothing is said
        stated = next((item.i for item in node.attribute if item.name == "output_dtype"), 0)
        unsigned = (stated or TensorProto.UINT8) in _UNSIGNED
    return (
        "its quantized values are unsigned, and would be read as signed: use int8, zero-point 0"
        if unsigned
        else None
    )


def _unscaled(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> str | None:
    item = constants.get(node.input[1])
    if item is None:
        return None
    scales = _as_floats(item)
    if not np.isfinite(scales).all():
        return f"its scale {node.input[1]} is not finite: calibrate again"
    if scales.size and scales.min() < _smallest(item, node.op_type):
        return (
            f"its scale {node.input[1]} is {scales.min():g}, too small to divide by: "
            "leave the layer in floating point"
        )
    return None


def _smallest(item: TensorProto, op: str) -> float:
    """Return the smallest scale that a runtime can work with.

    A quantizer multiplies by the reciprocal, which has to be finite; what is only multiplied has to
    be positive, and normal where the format has the range of float32.
    """
    if item.data_type == TensorProto.FLOAT16:
        return 2.0**-14 if op == "QuantizeLinear" else 2.0**-24
    return float(np.finfo(np.float32).tiny)


def _as_floats(item: TensorProto) -> NDArray[np.float32]:
    read = settings().weights().values if is_beside(item) else numpy_helper.to_array
    return np.asarray(read(item)).astype(np.float32).reshape(-1)
