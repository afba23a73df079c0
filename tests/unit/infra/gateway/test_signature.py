"""Which graphs let rows of several requests share a run, and which mix the rows of one."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from infra.gateway.wire.signature import read_signature


def graph(*nodes: onnx.NodeProto, first: str = "batch") -> bytes:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [first, 2]) for name in ("x", "y")
    ]
    made = helper.make_graph(nodes or [RELU], "g", ends[:1], ends[1:])
    return bytes(helper.make_model(made).SerializeToString())


RELU = helper.make_node("Relu", ["x"], ["y"])
SCALED = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
FUSED = helper.make_node("DynamicQuantizeMatMul", ["x", "w"], ["y"], domain="com.microsoft")
BRANCH = helper.make_node(
    "If",
    ["c"],
    ["y"],
    then_branch=helper.make_graph([SCALED], "t", [], []),
    else_branch=helper.make_graph([RELU], "e", [], []),
)


@pytest.mark.parametrize(
    ("data", "shared", "mixes"),
    [
        (graph(), True, False),
        (graph(SCALED, RELU), False, True),
        (graph(FUSED), False, True),
        (graph(BRANCH), False, True),
        (graph(first=""), False, False),
        (graph(SCALED, RELU, first=""), False, False),  # rows are no batch: none are counted
    ],
)
def test_rows_share_a_run_unless_a_neighbour_would_change_an_answer(
    data: bytes, shared: bool, mixes: bool
) -> None:
    signature = read_signature(data)
    assert (signature.shared, signature.mixes) == (shared, mixes)
