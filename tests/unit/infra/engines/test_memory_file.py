"""A large plan is read from memory by path, and answers as one that was handed over."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from infra.engines import memory_file, open_target
from infra.engines.memory_file import LARGE, as_file
from infra.errors import BadInput


def plan(size: int) -> bytes:
    """Return a product with a square weight of so many rows."""
    weight = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", size])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no files in memory")
def test_a_large_plan_is_a_file_while_it_is_loaded_and_answers_the_same() -> None:
    graph, x = plan(600), np.ones((2, 600), np.float32)
    assert len(graph) > LARGE
    with as_file(graph) as path:
        assert path is not None
        assert onnx.load(path).graph.node[0].op_type == "MatMul"
    assert not Path(path).exists()
    handed_over = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    loaded = open_target("onnxruntime-cpu").load(graph).run({"x": x})
    np.testing.assert_array_equal(loaded["y"], handed_over.run(None, {"x": x})[0])


def test_without_proc_the_bytes_are_handed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory_file, "_DESCRIPTORS", tmp_path / "fd")
    with as_file(plan(600)) as path:
        assert path is None


def test_a_large_plan_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="this is not an ONNX Runtime plan"):
        open_target("onnxruntime-cpu").load(bytes(LARGE + 1))
