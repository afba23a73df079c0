"""An operator that cannot be quantized, or that a target does not know, is named with its node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from infra.engines import open_target
from infra.errors import BadInput, Unavailable
from tasks.graphs.canonical.editing import body_reads
from tasks.graphs.canonical.held import require_same
from tasks.graphs.canonical.passes import make_canonical
from tasks.graphs.coverage import coverage
from tasks.graphs.operators import require_operators
from tasks.graphs.sites import find_sites
from tests import graphs

EYE = np.eye(4, dtype=np.float32)
RUNTIME, PARSER = "onnxruntime-cpu", "tensorrt-rtx"


def body(
    name: str, nodes: list[onnx.NodeProto], inputs: list[object], output: str
) -> onnx.GraphProto:
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, inputs, [result])


def conditional() -> onnx.ModelProto:
    """Make a layer in each branch."""
    branches = {
        f"{branch}_branch": body(
            branch,
            [helper.make_node("MatMul", ["x", "w"], [branch], f"{branch}.layer")],
            [],
            branch,
        )
        for branch in ("then", "else")
    }
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], "max", keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"], "greater"),
        helper.make_node("If", ["c"], ["y"], "choose", **branches),
    ]
    return graphs.model(nodes, {"w": EYE, "zero": np.float32(0)}, {"x": ["n", 4]}, {"y": ["n", 4]})


def loop() -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("h", TensorProto.FLOAT, None),
    ]
    nodes = [
        helper.make_node("Identity", ["go"], ["on"]),
        helper.make_node("MatMul", ["h", "w"], ["h2"], "inner"),
    ]
    outputs = [
        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("h2", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(nodes, "body", inputs, outputs)
    node = helper.make_node("Loop", ["times", "", "x"], ["y"], "repeat", body=graph)
    return graphs.model([node], {"w": EYE, "times": np.int64(3)}, {"x": ["n", 4]}, {"y": ["n", 4]})


def scan() -> onnx.ModelProto:
    step = [helper.make_node("MatMul", ["one", "w"], ["each"], "inner")]
    inputs = [helper.make_tensor_value_info("one", TensorProto.FLOAT, [1, 4])]
    graph = body("step", step, inputs, "each")
    node = helper.make_node("Scan", ["x"], ["y"], "walk", body=graph, num_scan_inputs=1)
    return graphs.model([node], {"w": EYE}, {"x": ["n", 1, 4]}, {"y": ["n", 1, 4]})


@pytest.mark.parametrize(
    ("make", "says"),
    [(conditional, "choose (If, 32"), (loop, "repeat (Loop, 16"), (scan, "walk (Scan, 16")],
)
def test_layers_in_branches_and_loops_stay_as_they_are_and_are_listed(
    make: Callable[[], onnx.ModelProto], says: str, tmp_path: Path
) -> None:
    model = make()
    onnx.save(model, tmp_path / "model.onnx")
    canonical = make_canonical(model, where="model.onnx")
    require_operators(canonical, [RUNTIME])
    shape = [dim.dim_value or 3 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)}
    require_same(tmp_path / "model.onnx", canonical.SerializeToString(), [feeds])
    (left,) = coverage(canonical, find_sites(canonical), {}).sentences[1:]
    assert left.startswith(says)
    assert not canonical.graph.initializer or "w" not in {
        item.name for item in canonical.graph.initializer
    }
    read = {name for node in canonical.graph.node for name in body_reads(node)}
    handed = {node.op_type for node in canonical.graph.node if read & set(node.output)}
    assert handed <= {"Sum"}  # ONNX Runtime takes an Identity out, and Q/DQ would move into a body
    with pytest.raises(BadInput, match=r"inner is com\.acme::Foo"):
        require_operators(_strange_inside(), [RUNTIME])


def _strange_inside() -> onnx.ModelProto:
    model = loop()
    inner = model.graph.node[0].attribute[0].g.node[1]
    inner.domain, inner.op_type = "com.acme", "Foo"
    return model


def one(op: str, domain: str = "") -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "fc"),
        helper.make_node(op, ["h"], ["y"], "strange", domain=domain),
    ]
    model = graphs.model(nodes, {"w": EYE}, {"x": ["n", 4]}, {"y": ["n", 4]})
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


@pytest.mark.parametrize("targets", [[RUNTIME], [RUNTIME, PARSER]])
@pytest.mark.parametrize(("op", "domain"), [("Foo", "com.acme"), ("Nope", "")])
def test_an_unknown_operator_is_named_with_its_node(
    op: str, domain: str, targets: list[str]
) -> None:
    with pytest.raises(BadInput, match=f"strange.*{op}") as caught:
        require_operators(one(op, domain), targets)
    assert str(caught.value).startswith("source: ")
    assert "export the model" in str(caught.value)


def test_the_runtimes_own_operators_are_for_the_runtime_alone() -> None:
    require_operators(one("Gelu", "com.microsoft"), [RUNTIME])
    with pytest.raises(
        BadInput, match=r"node strange is com\.microsoft::Gelu, which tensorrt-rtx does not know"
    ):
        require_operators(one("Gelu", "com.microsoft"), [RUNTIME, PARSER])


def test_what_the_real_parser_does_not_know_is_named_with_its_node() -> None:
    try:
        open_target(PARSER)
    except Unavailable as exc:
        pytest.skip(str(exc))
    model = one("Det")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    require_operators(model, [RUNTIME])
    with pytest.raises(
        BadInput,
        match=r"tensorrt-rtx cannot express the graph: .*node strange, Det.*drop the target",
    ):
        require_operators(model, [RUNTIME, PARSER])


def test_a_target_that_is_not_installed_here_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []

    def opening(name: str) -> object:
        if name == PARSER:
            raise Unavailable("it is not installed")
        opened.append(name)
        return open_target(name)

    monkeypatch.setattr("tasks.graphs.operators.open_target", opening)
    require_operators(one("Relu"), [PARSER, RUNTIME])
    assert opened == [RUNTIME]
