"""What a tensor's readers tell apart, held against the runtime: clipping beyond changes nothing."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tasks.graphs.distinguished import distinguished_values

INF = float("inf")
SCALARS = {"zero": 0.0, "one": 1.0, "three": 3.0, "six": 6.0, "minus": -2.0, "half": 0.5}
# What reads x, and where its values differ for it. The last node makes y.
READERS = {
    "HardSwish": ([("HardSwish", "x", "y")], (-3.0, INF)),
    "HardSwish in arithmetic": (
        [
            ("Add", "x three", "a"),
            ("Clip", "a zero six", "b"),
            ("Mul", "x b", "c"),
            ("Div", "c six", "y"),
        ],
        (-3.0, INF),
    ),
    "its gate divided first, the constant on the left": (
        [
            ("Add", "three x", "a"),
            ("Clip", "a zero six", "b"),
            ("Div", "b six", "c"),
            ("Mul", "c x", "y"),
        ],
        (-3.0, INF),
    ),
    "HardSigmoid": ([("HardSigmoid", "x", "y")], (-2.5, 2.5)),
    "HardSigmoid as a gate": ([("HardSigmoid", "x", "a"), ("Mul", "x a", "y")], (-2.5, INF)),
    "Clip": ([("Clip", "x minus six", "y")], (-2.0, 6.0)),
    "a scaled Clip": ([("Mul", "x half", "a"), ("Clip", "a zero six", "y")], (0.0, 12.0)),
    "Relu behind a subtraction": ([("Sub", "x one", "a"), ("Relu", "a", "y")], (1.0, INF)),
    "two readers, the wider one": (
        [("Relu", "x", "a"), ("Clip", "x minus six", "b"), ("Add", "a b", "y")],
        (-2.0, INF),
    ),
    "a gate that does not end at 0": (
        [("Clip", "x one six", "a"), ("Mul", "x a", "y")],
        None,
    ),
    "a gate with something added": (
        [("HardSigmoid", "x", "a"), ("Add", "a one", "b"), ("Mul", "x b", "y")],
        None,
    ),
    "a square": ([("Mul", "x x", "y")], None),
    "a negative factor": ([("Mul", "x minus", "a"), ("Relu", "a", "y")], None),
    "a subtraction from a constant": ([("Sub", "one x", "a"), ("Relu", "a", "y")], None),
    "a reader of everything": ([("Relu", "x", "a"), ("Tanh", "x", "b"), ("Add", "a b", "y")], None),
}


def graph(nodes: list[tuple[str, str, str]], clip: tuple[float, float] | None) -> bytes:
    """Return a graph from v to y; x is v, clipped where ends are given."""
    ends = {"low": clip[0], "high": clip[1]} if clip else {}
    constants = SCALARS | {name: max(min(value, 3e38), -3e38) for name, value in ends.items()}
    first = ("Clip", "v low high", "x") if clip else ("Identity", "v", "x")
    made = [
        helper.make_node(kind, read.split(), [out], name=f"n{place}")
        for place, (kind, read, out) in enumerate([first, *nodes])
    ]
    model = helper.make_model(
        helper.make_graph(
            made,
            "g",
            [helper.make_tensor_value_info("v", TensorProto.FLOAT, ["n"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
            [
                helper.make_tensor(name, TensorProto.FLOAT, [], [value])
                for name, value in constants.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    return bytes(model.SerializeToString())


def run(model: bytes, values: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    answer: NDArray[np.float32] = session.run(None, {"v": values})[0]
    return answer


@pytest.mark.parametrize("name", READERS)
def test_what_lies_beyond_makes_no_difference_to_the_output(name: str) -> None:
    nodes, expected = READERS[name]
    whole = graph(nodes, None)
    ends = distinguished_values(onnx.load_from_string(whole)).get("x")
    assert ends == (None if expected is None else pytest.approx(expected, rel=1e-6))
    values = np.concatenate([np.linspace(-50, 50, 4001), [-1e4, 1e4]]).astype(np.float32)
    if ends is None:
        return
    clipped = run(graph(nodes, ends), values)
    assert np.allclose(clipped, run(whole, values), rtol=1e-6, atol=1e-6)
    narrower = (ends[0] + 0.25, ends[1] - 0.25)
    assert not np.allclose(run(graph(nodes, narrower), values), clipped)


def test_what_the_graph_returns_is_told_apart_throughout() -> None:
    model = onnx.load_from_string(graph([("Relu", "x", "y")], None))
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]))
    assert "x" not in distinguished_values(model)


def test_what_a_branch_reads_is_told_apart_throughout() -> None:
    branch = helper.make_graph(
        [helper.make_node("Tanh", ["x"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["n"])],
    )
    model = onnx.load_from_string(graph([("Relu", "x", "y")], None))
    model.graph.node.append(
        helper.make_node("If", ["which"], ["z"], then_branch=branch, else_branch=branch)
    )
    assert "x" not in distinguished_values(model)
