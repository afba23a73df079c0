"""Files that are valid or nearly: each is taken with all its weights, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from infra.errors import BadInput
from infra.settings import Settings
from tasks.metrics.custom.distances import worst_distance
from tasks.models.catalog import RegisteredModel, register
from tasks.models.inputs import record_inputs
from tests.custom_models import write_model

WEIGHT = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
VALUES, PLACES = [1.0, 2.0, 3.0], [0, 5, 23]


def floats(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape).astype(np.float32)


def value(
    name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int | str] | None = None
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def product(source: str = "x", output: str = "y", weight: str = "w") -> onnx.NodeProto:
    return helper.make_node("MatMul", [source, weight], [output], f"fc.{output}")


def graph(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, NDArray[np.generic]],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    sparse: Sequence[onnx.SparseTensorProto] = (),
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "g",
        inputs or [value("x", shape=["n", 6])],
        outputs or [value("y", shape=["n", 4])],
        [numpy_helper.from_array(np.asarray(item), name) for name, item in weights.items()],
        sparse_initializer=sparse,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def sparse(name: str, *, coordinates: bool = False) -> onnx.SparseTensorProto:
    places = [divmod(place, 4) for place in PLACES] if coordinates else PLACES
    shape = [3, 2] if coordinates else [3]
    flat = np.ravel(places).tolist()
    return helper.make_sparse_tensor(
        helper.make_tensor(name, TensorProto.FLOAT, [3], VALUES),
        helper.make_tensor(f"{name}_places", TensorProto.INT64, shape, flat),
        [6, 4],
    )


def registered(model: onnx.ModelProto, folder: Path) -> RegisteredModel:
    rng = np.random.default_rng(1)
    kind = model.graph.input[0].type.tensor_type.elem_type
    dtype = np.float64 if kind == TensorProto.DOUBLE else np.float32
    payloads = [{"x": rng.standard_normal(6).astype(dtype)} for _ in range(48)]
    return register(write_model(folder, model, payloads))


def sparse_constant() -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["w"], sparse_value=sparse(""))
    return graph([node, product()], {})


@pytest.mark.parametrize(
    "model",
    [
        graph([product()], {}, sparse=[sparse("w")]),
        graph([product()], {}, sparse=[sparse("w", coordinates=True)]),
        sparse_constant(),
    ],
    ids=["places", "coordinates", "Constant"],
)
def test_a_sparse_weight_is_a_layers(
    model: onnx.ModelProto, workspace: Settings, tmp_path: Path
) -> None:
    taken = registered(model, tmp_path)
    assert taken.coverage.sentences == ("1 layer, 100.0% of the weights, 100.0% of the products",)


def test_a_weight_without_numbers_is_no_layer(workspace: Settings, tmp_path: Path) -> None:
    nodes = [
        product(output="a"),
        product(output="b", weight="none"),
        helper.make_node("Concat", ["a", "b"], ["y"], axis=1),
    ]
    weights = {"w": WEIGHT, "none": np.zeros((6, 0), np.float32)}
    taken = registered(graph(nodes, weights), tmp_path)
    assert [layer.name for site in taken.sites for layer in site.layers] == ["fc.a"]


def test_a_sequence_beside_tensors_is_not_judged(workspace: Settings, tmp_path: Path) -> None:
    listed = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    nodes = [product(), helper.make_node("SequenceConstruct", ["y"], ["s"])]
    model = graph(nodes, {"w": WEIGHT}, outputs=[value("y", shape=["n", 4]), listed])
    assert {*registered(model, tmp_path).golden_records[0]} == {"y"}


def test_an_output_that_never_changes_is_not_judged(workspace: Settings, tmp_path: Path) -> None:
    outputs = [value("y", shape=["n", 4]), value("w", shape=[6, 4]), value("k", shape=[1])]
    anchors = helper.make_node("Constant", [], ["k"], value_floats=[3.0])
    taken = registered(graph([product(), anchors], {"w": WEIGHT}, outputs=outputs), tmp_path)
    assert {*taken.golden_records[0]} == {"y"}
    assert [item.name for item in taken.graph.graph.output] == ["y", "w", "k"]


def test_whole_numbers_beside_floats_are_not_measured(workspace: Settings, tmp_path: Path) -> None:
    best = helper.make_node("ArgMax", ["y"], ["b"], axis=1, keepdims=0)
    outputs = [value("y", shape=["n", 4]), value("b", TensorProto.INT64, ["n"])]
    taken = registered(graph([product(), best], {"w": WEIGHT}, outputs=outputs), tmp_path)
    before = taken.golden_records[0]
    other = {"y": before["y"], "b": before["b"] + 1}
    assert {*before} == {"y", "b"}
    assert worst_distance("relative-error", None, before, other) == 0
    assert worst_distance("relative-error", "b", before, other) > 0


def test_a_request_in_half_precision_is_read_in_single(workspace: Settings, tmp_path: Path) -> None:
    taken = registered(graph([product()], {"w": WEIGHT}), tmp_path)
    half = np.ones(6, np.float16)
    assert record_inputs(taken.inputs).record({"x": half})["x"].dtype == np.float32


def test_an_input_of_unknown_axes_is_told_and_may_be_given(
    workspace: Settings, tmp_path: Path
) -> None:
    model = graph([product()], {"w": WEIGHT})
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(BadInput, match=r"how many axes its input x has: .* input.tensors.x.shape"):
        registered(model, tmp_path / "silent")
    rng = np.random.default_rng(1)
    payloads = [{"x": rng.standard_normal(6).astype(np.float32)} for _ in range(48)]
    given = {"input": {"tensors": {"x": {"shape": ["batch", 6]}}}}
    assert register(write_model(tmp_path / "told", model, payloads, **given)).coverage.layers == 1


def test_axes_of_one_name_that_differ_are_told(workspace: Settings, tmp_path: Path) -> None:
    nodes = [
        product(output="h"),
        helper.make_node("ReduceMean", ["z"], ["m"], axes=[1, 2], keepdims=0),
        helper.make_node("Concat", ["h", "m2"], ["y"], axis=1),
        helper.make_node("Unsqueeze", ["m", "one"], ["m2"]),
    ]
    nodes[2:] = reversed(nodes[2:])
    sides = [value("x", shape=["n", 6]), value("z", shape=["n", "side", "side"])]
    weights = {"w": WEIGHT, "one": np.int64([1])}
    model = graph(nodes, weights, sides, [value("y", shape=["n", 5])])
    rng = np.random.default_rng(1)
    payloads = [
        {"x": floats(rng, 6), "z": floats(rng, 4, 5)}  # the graph itself takes them
        for _ in range(48)
    ]
    with pytest.raises(BadInput, match="axes called side have to be equal, and have 4 and 5"):
        register(write_model(tmp_path / "silent", model, payloads))
    given = {"input": {"tensors": {"z": {"shape": ["batch", "height", "width"]}}}}
    assert register(write_model(tmp_path / "told", model, payloads, **given)).coverage.layers == 1


def by_chance() -> onnx.ModelProto:
    """Add noise of a seed, whose generator goes on from request to request."""
    nodes = [
        product(output="h"),
        helper.make_node("RandomNormalLike", ["h"], ["noise"], seed=1.0),
        helper.make_node("Add", ["h", "noise"], ["y"]),
    ]
    return graph(nodes, {"w": WEIGHT})


def as_text() -> onnx.ModelProto:
    nodes = [product(output="h"), helper.make_node("Cast", ["h"], ["t"], to=TensorProto.STRING)]
    return graph(nodes, {"w": WEIGHT}, outputs=[value("t", TensorProto.STRING, ["n", 4])])


def broken() -> NDArray[np.float32]:
    weight = WEIGHT.copy()
    weight[1, 2] = np.nan
    return weight


SEQUENCE = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
DOUBLE = WEIGHT.astype(np.float64)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (graph([product()], {"w": broken()}), "weight of fc.y holds NaN or infinity"),
        (
            graph([product()], {"w": WEIGHT}, [value("x", shape=[0, 6])]),
            "input x has size 0 along axis 0: export it with a size",
        ),
        (
            graph([product()], {"w": WEIGHT}, [value("x", shape=["n", 6])] * 2),
            r"source: ONNX Runtime cannot load the graph .*Duplicate definition.*: export it again",
        ),
        (by_chance(), "y of one request changes from run to run, for the graph draws random"),
        (as_text(), "t are texts, whose distance nothing measures"),
        (
            graph([product()], {"w": WEIGHT.T.copy()}),
            r"source: ONNX Runtime cannot load the graph .*Incompatible dimensions",
        ),
        (
            graph(
                [helper.make_node("SequenceAt", ["s", "k"], ["z"]), product("z")],
                {"w": WEIGHT, "k": np.int64(0)},
                [value("x", shape=["n", 6]), SEQUENCE],
            ),
            "input s is no tensor of numbers but texts, a sequence",
        ),
        (
            graph(
                [product(), helper.make_node("Identity", ["t"], ["u"])],
                {"w": WEIGHT},
                [value("x", shape=["n", 6]), value("t", TensorProto.STRING, ["n"])],
                [value("y", shape=["n", 4]), value("u", TensorProto.STRING, ["n"])],
            ),
            "input t is no tensor of numbers",
        ),
        (
            graph(
                [product(), helper.make_node("SequenceConstruct", ["y"], ["s"])],
                {"w": WEIGHT},
                outputs=[SEQUENCE],
            ),
            "returns no tensor but states and sequences",
        ),
        (
            graph(
                [product()],
                {"w": DOUBLE},
                [value("x", TensorProto.DOUBLE, ["n", 6])],
                [value("y", TensorProto.DOUBLE, ["n", 4])],
            ),
            "its weight is float64: export the model in float32",
        ),
        (
            graph([helper.make_node("QLinearAdd", ["x"] * 8, ["y"], domain="com.microsoft")], {}),
            "is quantized already .QLinearAdd.",
        ),
    ],
)
def test_a_graph_that_cannot_be_taken_is_refused_and_nothing_is_stored(
    model: onnx.ModelProto, why: str, workspace: Settings, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=why):
        registered(model, tmp_path)
    assert list(workspace.store().list("")) == []
