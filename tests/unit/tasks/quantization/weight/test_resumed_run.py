"""A graph run in steps makes what it makes in one run, and reads its constants as they are then."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from infra.engines import open_target
from tasks.quantization.weight.resumed_run import Values, plan_steps, run_steps

SHAPE = (1, 3)


def network() -> onnx.ModelProto:
    """Return a chain of sums with a branch around it: a = x + 1; b = a + 10; y = a * b + a."""
    nodes = [
        helper.make_node("Add", ["x", "one"], ["a"], "first"),
        helper.make_node("Add", ["a", "ten"], ["b"], "second"),
        helper.make_node("Mul", ["a", "b"], ["c"], "product"),
        helper.make_node("Add", ["c", "a"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "branch",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [
            numpy_helper.from_array(np.full(SHAPE, value, np.float32), name)
            for name, value in (("one", 1), ("ten", 10))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


CASES = [{"x": np.full(SHAPE, value, np.float32)} for value in (0, 2)]


def test_steps_make_what_one_run_makes() -> None:
    model = network()
    whole = open_target("onnxruntime-cpu").load(model.SerializeToString())
    shown: dict[str, Values] = {}

    def visit(name: str, values: Values) -> Values:
        shown[name] = values
        return values

    run_steps(model, plan_steps(model.graph, ["a", "b", "y"], {"a", "b"}), CASES, visit)
    assert list(shown) == ["a", "b", "y"]
    for case, value in zip(CASES, shown["y"], strict=True):
        np.testing.assert_array_equal(value, whole.run(case)["y"])


def test_a_step_goes_on_from_what_was_kept() -> None:
    steps = plan_steps(network().graph, ["a", "y"], {"a"})
    assert [[node.name for node in step.nodes] for step in steps] == [
        ["first"],
        ["second", "product", "last"],
    ]
    assert [step.reads for step in steps] == [("x",), ("a",)]


def test_what_is_not_kept_is_made_again() -> None:
    steps = plan_steps(network().graph, ["a", "y"], ())
    assert [node.name for node in steps[1].nodes] == ["first", "second", "product", "last"]


def test_a_revised_tensor_is_what_later_steps_read() -> None:
    model, ends = network(), {}

    def visit(name: str, values: Values) -> Values:
        ends[name] = values
        return [value + 1 for value in values]

    run_steps(model, plan_steps(model.graph, ["a", "y"], {"a"}), CASES, visit)
    np.testing.assert_array_equal(ends["y"][0], np.full(SHAPE, 2 * 12 + 2, np.float32))


def test_a_constant_that_changed_meanwhile_is_read_as_it_is() -> None:
    model, ends = network(), {}

    def visit(name: str, values: Values) -> Values:
        ends[name] = values
        for item in model.graph.initializer:
            if item.name == "ten":
                item.CopyFrom(numpy_helper.from_array(np.zeros(SHAPE, np.float32), "ten"))
        return values

    run_steps(model, plan_steps(model.graph, ["a", "y"], {"a"}), CASES, visit)
    np.testing.assert_array_equal(ends["y"][1], np.full(SHAPE, 3 * 3 + 3, np.float32))


def test_a_branch_reads_around_itself_what_was_kept() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "ten"], ["inner"], "inside")],
        "body",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, SHAPE)],
    )
    model = network()
    del model.graph.node[1:]
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(True), "always"))
    model.graph.node.append(
        helper.make_node("If", ["always"], ["y"], "choice", then_branch=body, else_branch=body)
    )
    ends = {}

    def visit(name: str, values: Values) -> Values:
        ends[name] = values
        return values

    run_steps(model, plan_steps(model.graph, ["a", "y"], {"a"}), CASES, visit)
    np.testing.assert_array_equal(ends["y"][1], np.full(SHAPE, 13, np.float32))
