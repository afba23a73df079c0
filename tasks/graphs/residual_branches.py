"""Where TensorRT wants a quantizer beside what its layers read: on one branch of an addition.

What a convolution makes is added to the other branch in the convolution's own kernel. That branch
is read from memory, as INT8 where a quantizer stands on it, else as floats that have to be written
beside the INT8 values for the next layer. A second quantizer, on what the convolution makes, would
only round once more (TensorRT's guide on Q/DQ placement: quantize the residual input of a skip
connection, and no output). `tests/contract/test_residual_branches.py` holds this against the
layers that the builder prints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

LAYERS = ("Conv",)
"""Layers whose kernels add another branch."""
ADDITIONS = ("Add", "Sum")
"""Operators that join two branches."""
_PASSED = ("Relu", "Clip", "BatchNormalization")
"""What may stand between a layer and the addition."""


@dataclass(frozen=True, slots=True)
class ResidualBranch:
    """One input of an addition, which is read from memory."""

    addition: str  # node
    place: int  # of the node's inputs
    tensor: str


def residual_branches(graph: onnx.GraphProto) -> tuple[ResidualBranch, ...]:
    """Return the branches to quantize of a Q/DQ graph, in graph order.

    Where quantized layers make both, none is: the builder runs one right before the addition, and
    a quantizer there would only round what it makes.
    """
    makers = {name: node for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in node.input}
    # A quantizer that nobody reads stands there for another target.
    readers = Counter(
        name
        for node in graph.node
        if node.op_type != "QuantizeLinear" or node.output[0] in read
        for name in node.input
    )
    constants = {item.name for item in graph.initializer}
    branches = []
    for node in graph.node:
        if node.op_type not in ADDITIONS or len(node.input) != 2 or constants & set(node.input):
            continue
        own = [
            place
            for place, name in enumerate(node.input)
            if readers[name] == 1 and _is_of_a_quantized_layer(name, makers, constants)
        ]
        if len(own) == 1:
            other = 1 - own[0]
            branches.append(ResidualBranch(node.name, other, node.input[other]))
    return tuple(branches)


def _is_of_a_quantized_layer(
    name: str, makers: Mapping[str, onnx.NodeProto], constants: set[str]
) -> bool:
    node = makers.get(name)
    while node is not None and node.op_type not in LAYERS:
        others = [item for item in node.input if item not in constants]
        by_channel = node.op_type in ("Add", "Mul") and len(others) == 1
        if not by_channel and node.op_type not in _PASSED:
            return False
        node = makers.get(others[0])
    if node is None:
        return False
    operands = [makers.get(item) for item in node.input[:2]]
    return all(item is not None and item.op_type == "DequantizeLinear" for item in operands)
