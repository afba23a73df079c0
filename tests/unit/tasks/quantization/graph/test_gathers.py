"""A Gather of a quantized table is one of its levels; a Gather of an activation is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tasks.quantization.graph.lowering import gathered_levels
from tests import graphs


@pytest.mark.parametrize("table", [True, False])
def test_only_a_constant_tables_rows_are_gathered_as_levels(table: bool) -> None:
    source = "t" if table else "q"
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", [source, "s", "z"], ["d"], "dequantize"),
        helper.make_node("Gather", ["d", "first"], ["r"], "pick"),
        helper.make_node("ReduceMean", ["x"], ["m"], "mean", keepdims=1),
        helper.make_node("Add", ["r", "m"], ["y"], "add"),
    ]
    weights = {
        "s": np.float32(0.5),
        "z": np.uint8(128),
        "first": np.array([0], np.int64),
        "t": np.arange(8, dtype=np.uint8).reshape(2, 4),
    }
    model = graphs.model(nodes, weights, {"x": [2, 4]}, {"y": [1, 4]}, opset=17)
    lowered = gathered_levels(model)
    dequantizers = [node for node in lowered.graph.node if node.op_type == "DequantizeLinear"]
    assert len(dequantizers) == (0 if table else 1)
    if not table:
        assert lowered.SerializeToString() == model.SerializeToString()
