"""What ONNX Runtime multiplies weights of few bits with: floats, or activations rounded to INT8.

Its operator MatMulNBits rounds activations to INT8 by default, which its documentation calls an
accuracy level (`session.qdq_matmulnbits_accuracy_level`: 1 is FP32, 4 is INT8). A graph here says
which it wants; one that says nothing computes in floats, as a recipe for weights alone promises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.errors import BadInput
from infra.weights.outline import outline

if TYPE_CHECKING:
    import onnx

OPTION = "session.qdq_matmulnbits_accuracy_level"
FLOATS, INTEGERS = "1", "4"
_MARK = "requant.int8-products"


def ask_for_integers(graph: onnx.ModelProto) -> None:
    """Note in a graph that activations may be rounded to INT8 inside its products."""
    graph.metadata_props.add(key=_MARK, value="true")


def accuracy_level(graph: bytes) -> str:
    """Return the level that a serialized graph asks for."""
    try:
        return _level(outline(graph))
    except BadInput:  # the runtime tells what is wrong with it
        return FLOATS


def session_options(graph: onnx.ModelProto) -> dict[str, dict[str, str]] | None:
    """Return what MLflow's ONNX flavour is to run a graph with; None where nothing is special.

    The level matters where weights have a scale a block.
    """
    blocks = any(
        node.op_type == "DequantizeLinear"
        and any(item.name == "block_size" and item.i for item in node.attribute)
        for node in graph.graph.node
    )
    return {"extra_session_config": {OPTION: _level(graph)}} if blocks else None


def _level(graph: onnx.ModelProto) -> str:
    asked = any(item.key == _MARK for item in graph.metadata_props)
    return INTEGERS if asked else FLOATS
