"""One Q/DQ graph, one form per target (DESIGN.md, D1)."""

import numpy as np
import onnx
from onnx import numpy_helper

from infra.errors import BadInput


def lower(qdq: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """The graph in a target's form: "s8" (TensorRT) as it is, "u8" (ONNX Runtime on x86) with shifted activations."""
    match form:
        case "s8":
            return qdq
        case "u8":
            return unsigned_activations(qdq)
        case _:
            raise BadInput(f"no lowering is called {form!r}: allowed are 's8' and 'u8'")


def unsigned_activations(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """S8 with zero-point 0 becomes U8 with zero-point 128: the same arithmetic, and the form ONNX Runtime fuses."""
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    shifted = {node.input[2] for node in copy.graph.node if node.op_type == "QuantizeLinear"}
    for item in copy.graph.initializer:
        if item.name in shifted:
            item.CopyFrom(numpy_helper.from_array(np.uint8(128), item.name))
    return copy
