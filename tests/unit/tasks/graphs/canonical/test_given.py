"""Sizes and values that a spec knows of inputs, and what becomes constant by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from infra.errors import BadInput
from tasks.graphs.canonical.given import fix_sizes, fix_values, fixed_values
from tasks.graphs.canonical.held import require_same
from tasks.graphs.canonical.passes import make_canonical
from tasks.graphs.sites import find_sites

RNG = np.random.default_rng(5)
X = RNG.standard_normal((3, 6)).astype(np.float32)


def branch(name: str, weight: str) -> onnx.GraphProto:
    """Return a layer, and behind it a branch of its own on how many axes there are."""
    inner = {
        side: helper.make_graph(
            [helper.make_node(op, [f"{name}_product"], [f"{name}_{side}"])],
            side,
            [],
            [helper.make_tensor_value_info(f"{name}_{side}", TensorProto.FLOAT, None)],
        )
        for side, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes = [
        helper.make_node("MatMul", ["x", weight], [f"{name}_product"], f"{name}_layer"),
        helper.make_node("Shape", [f"{name}_product"], [f"{name}_shape"]),
        helper.make_node("Gather", [f"{name}_shape", "last"], [f"{name}_size"]),
        helper.make_node("Equal", [f"{name}_size", "four"], [f"{name}_is"]),
        helper.make_node("If", [f"{name}_is"], [f"{name}_y"], f"{name}_if", **inner),
    ]
    result = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [result])


def by_rate() -> onnx.ModelProto:
    """Return a graph with a branch for each of two sample rates, as speech detectors have them."""
    value = helper.make_tensor_value_info
    constants = {
        "a": RNG.standard_normal((6, 4)).astype(np.float32),
        "b": RNG.standard_normal((6, 4)).astype(np.float32),
        "rate_a": np.int64(16000),
        "last": np.int64(1),
        "four": np.int64(4),
    }
    nodes = [
        helper.make_node("Equal", ["rate", "rate_a"], ["is_a"]),
        helper.make_node(
            "If", ["is_a"], ["y"], then_branch=branch("p", "a"), else_branch=branch("q", "b")
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "rates",
        [value("x", TensorProto.FLOAT, ["n", "width"]), value("rate", TensorProto.INT64, [])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(item, name) for name, item in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("rate", "layer"), [(16000, "p_layer"), (8000, "q_layer")])
def test_a_branch_on_an_input_that_never_changes_is_taken_with_what_follows(
    rate: int, layer: str, tmp_path: Path
) -> None:
    model = by_rate()
    onnx.save(model, tmp_path / "model.onnx")
    fix_values(model, fixed_values(model, {"rate": rate}))
    canonical = make_canonical(model, where="model.onnx")
    assert [item.name for item in canonical.graph.input] == ["x"]
    assert [item.name for site in find_sites(canonical) for item in site.layers] == [layer]
    assert {node.op_type for node in canonical.graph.node} <= {"MatMul", "Relu", "Identity"}
    data = canonical.SerializeToString()
    require_same(tmp_path / "model.onnx", data, [{"x": X}], {"rate": rate})
    with pytest.raises(BadInput, match="differs from the file"):
        require_same(tmp_path / "model.onnx", data, [{"x": X}], {"rate": 24000 - rate})


def test_sizes_that_the_spec_gives_are_written_where_the_graph_leaves_them_open() -> None:
    model = by_rate()
    fix_sizes(model, {"x": [1, "width"], "rate": [3]})
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 0]
    assert not model.graph.input[1].type.tensor_type.shape.dim


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"speed": 1}, "input.tensors names speed, and the graph reads x, rate"),
        ({"rate": [1, 2]}, r"input.tensors.rate.value has 2 numbers, and the graph reads \[\]"),
        ({"x": 0.0}, r"graph reads \['\?', '\?'\]: give one, or as many, and sizes in shape"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(values: dict[str, float], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        fixed_values(by_rate(), values)
