"""A graph's outline is the graph without the numbers of its large weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from infra.errors import BadInput
from infra.weights.naming import beside, file_name
from infra.weights.outline import LARGE, MOST_PARTS, outline

OUTSIDE = file_name("a" * 64)


def model() -> onnx.ModelProto:
    """Return a product with a large weight, a small one, and one in a file."""
    rows = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    listed = helper.make_tensor("listed", TensorProto.INT64, [512], [-1] * 512)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "large"], ["y"], name="n" * 300)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [
            numpy_helper.from_array(rows, "large"),
            numpy_helper.from_array(rows[:2, :2], "small"),
            beside("outside", TensorProto.FLOAT, (64, 64), OUTSIDE, 16384),
            listed,
        ],
        doc_string="d" * 2 * LARGE,
    )
    made = helper.make_model(graph)
    made.metadata_props.add(key="k", value="v")
    return made


def without_numbers(whole: onnx.ModelProto) -> onnx.ModelProto:
    for item in whole.graph.initializer:
        if item.ByteSize() > LARGE:
            item.ClearField("raw_data")
            item.ClearField("int64_data")
    return whole


def test_only_the_numbers_of_large_weights_are_missing() -> None:
    whole = model()
    assert outline(whole.SerializeToString()) == without_numbers(whole)


@given(st.binary(max_size=64))
def test_bytes_are_a_model_or_refused(noise: bytes) -> None:
    graph = model().SerializeToString()
    for data in (noise, graph + noise, graph[: len(graph) // 2] + noise):
        try:
            found = outline(data)
        except BadInput:
            continue
        whole = onnx.ModelProto.FromString(data)  # what has an outline is a model, too
        assert list(found.graph.node) == list(whole.graph.node)


def test_a_graph_of_very_many_fields_is_read_whole() -> None:
    whole = model()
    whole.graph.node.extend(helper.make_node("Relu", ["y"], ["z"]) for _ in range(MOST_PARTS))
    assert outline(whole.SerializeToString()) == whole


def test_what_is_cut_off_is_refused() -> None:
    graph = model().SerializeToString()
    with pytest.raises(BadInput, match="no ONNX graph"):
        outline(graph[:-3])
