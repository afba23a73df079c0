"""Graphs with inputs of their own: what they read, and how requests become batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from infra.engines import open_target
from infra.errors import BadInput
from tasks.models.custom.inputs import (
    RecordInputs,
    find_batch_axes,
    require_independent_cases,
    run_records,
)
from tasks.models.custom.layout import read_record_layout
from tasks.specs.spec import InputSpec
from tasks.specs.tensors import dump_layout, parse_layout
from tests.custom_models import ranker, records

Axes = Sequence[int | str | None]


def graph(inputs: Mapping[str, Axes], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Return a graph that passes its first input on."""
    values = [helper.make_tensor_value_info(name, kind, axes) for name, axes in inputs.items()]
    first = next(iter(inputs))
    output = helper.make_tensor_value_info("y", kind, inputs[first])
    node = helper.make_node("Identity", [first], ["y"], "pass")
    made = helper.make_graph([node], "g", values, [output])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def image(height: int, width: int) -> dict[str, Any]:
    return {"x": np.full((3, height, width), height + width, np.float32)}


def test_names_types_and_axes_follow_from_the_graph() -> None:
    layout = read_record_layout(ranker(), InputSpec(), records(2))
    assert {name: (item.dtype, item.axes) for name, item in layout.tensors.items()} == {
        "word ids": ("int32", (6,)),
        "features": ("float32", (12,)),
    }
    assert (layout.batch, layout.alone, layout.dimensions) == (None, False, {})
    assert parse_layout(dump_layout(layout), where="inputs.json") == layout


def test_sizes_that_nobody_gives_are_those_of_the_shipped_data() -> None:
    rules = InputSpec.model_validate(
        {"tensors": {"x": {"shape": ["n", 3, 48, "width"]}}, "dimensions": {}}
    )
    layout = read_record_layout(
        graph({"x": [None, 3, None, None]}), rules, [image(48, 32), image(48, 64), image(48, 96)]
    )
    width = layout.dimensions["width"]
    assert (width.smallest, width.common, width.largest) == (32, 64, 192)
    shapes = RecordInputs(layout, ["y"]).profile["x"]
    assert (shapes.smallest, shapes.largest) == ((1, 3, 48, 32), (64, 3, 48, 192))


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"tensors": {"z": {}}}, "input.tensors names z, and the graph reads x"),
        ({"tensors": {"x": {"shape": ["n", 4, 8, 8]}}}, "shape is .* and the graph reads"),
        ({"dimensions": {"depth": 3}}, "input.dimensions names depth, and the inputs have"),
        ({}, "nothing tells the sizes of x.2: give input.dimensions"),
    ],
)
def test_a_spec_that_contradicts_the_graph_is_refused(rules: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        read_record_layout(graph({"x": [None, 3, None, None]}), InputSpec(**rules), [])


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"word ids": records(1)[0]["word ids"]}, "the inputs are word ids: this model reads"),
        ({**records(1)[0], "features": np.zeros(12)}, "features is float64"),
        ({**records(1)[0], "features": np.zeros(3, np.float32)}, r"shape \[3\]: .* reads \[12\]"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(record: dict[str, Any], why: str) -> None:
    layout = read_record_layout(ranker(), InputSpec(), records(2))
    with pytest.raises(BadInput, match=why):
        layout.check(record)


def test_a_size_beyond_the_profile_is_refused() -> None:
    layout = read_record_layout(
        graph({"x": ["n", 3, "h", "w"]}), InputSpec(dimensions={"h": 8, "w": [4, 8, 16]}), []
    )
    with pytest.raises(BadInput, match=r"reads \[3, h 8 to 8, w 4 to 16\]; widen"):
        layout.check(image(8, 32))


def test_requests_of_equal_shapes_share_a_batch() -> None:
    model = graph({"x": ["n", 3, "h", "w"]})
    payloads = [image(8, 8 * (1 + number % 2)) for number in range(5)]
    inputs = RecordInputs(read_record_layout(model, InputSpec(), payloads), ["y"])
    assert [batch.cases.tolist() for batch in inputs.batches(payloads)] == [[0, 2, 4], [1, 3]]
    outputs = run_records(engine_of(model), inputs, payloads)
    assert [out["y"].shape for out in outputs] == [one["x"].shape for one in payloads]


def engine_of(model: onnx.ModelProto) -> Any:
    return open_target("onnxruntime-cpu").load(model.SerializeToString())


@pytest.mark.parametrize("fixed", [1, 4])
def test_a_fixed_batch_is_filled_up_and_answers_as_a_dynamic_one(fixed: int) -> None:
    payloads = records(6)
    answers = []
    for model in (ranker(), ranker(fixed)):
        layout = read_record_layout(model, InputSpec(), payloads)
        inputs = RecordInputs(layout, ["fetch_name_0", "embedding_0"])
        answers.append(run_records(engine_of(model), inputs, payloads))
    assert layout.batch == fixed
    assert {len(batch.cases) for batch in inputs.batches(payloads)} == {fixed}
    assert all(len(part.cases) == fixed for b in inputs.batches(payloads) for part in b.parts(2))
    for free, filled in zip(*answers, strict=True):
        np.testing.assert_allclose(free["embedding_0"], filled["embedding_0"], rtol=1e-5)


def test_requests_go_one_by_one_where_an_input_has_no_batch() -> None:
    model = graph({"x": ["n", 3], "rate": []})
    payloads = [{"x": np.ones(3, np.float32), "rate": np.float32(8)} for _ in range(2)]
    payloads = [{name: np.asarray(value) for name, value in one.items()} for one in payloads]
    layout = read_record_layout(model, InputSpec(), payloads)
    assert layout.alone
    batches = list(RecordInputs(layout, ["y"]).batches(payloads))
    assert [batch.feeds["x"].shape for batch in batches] == [(1, 3), (1, 3)]


def test_a_single_tensor_is_the_only_input() -> None:
    layout = read_record_layout(graph({"x": ["n", 3]}), InputSpec(), [])
    inputs = RecordInputs(layout, ["y"])
    assert inputs.record(np.ones(3, np.float32)).keys() == {"x"}
    with pytest.raises(BadInput, match="was given a text: name a preprocess step"):
        inputs.record("hello")


def time_major() -> onnx.ModelProto:
    """From [n, 3, 4] to [4, n, 3], as recurrent heads write it."""
    model = graph({"x": ["n", 3, 4]})
    model.graph.node[0].CopyFrom(helper.make_node("Transpose", ["x"], ["y"], perm=[2, 0, 1]))
    return model


@pytest.mark.parametrize("count", [2, 4])
def test_a_batch_that_is_not_the_first_axis_of_an_output_is_found(count: int) -> None:
    payloads = [{"x": np.full((3, 4), number, np.float32)} for number in range(count)]
    layout = read_record_layout(time_major(), InputSpec(), payloads)
    inputs = RecordInputs(layout, ["y"])
    axes = find_batch_axes(engine_of(time_major()), inputs, payloads[0])
    assert axes == {"y": 1}
    inputs = RecordInputs(replace(layout, batch_axes=axes), ["y"])
    outputs = run_records(engine_of(time_major()), inputs, payloads)
    assert [out["y"].shape for out in outputs] == [(4, 3)] * count
    assert [out["y"].max() for out in outputs] == list(range(count))


def test_a_first_axis_that_is_no_batch_is_refused_and_may_be_said() -> None:
    model = graph({"x": ["steps", 3]})
    model.graph.node[0].CopyFrom(helper.make_node("Softmax", ["x"], ["y"], axis=0))
    payloads = [{"x": np.full(3, number, np.float32)} for number in range(3)]
    inputs = RecordInputs(read_record_layout(model, InputSpec(), payloads), ["y"])
    with pytest.raises(BadInput, match=r"y of one request changes with the requests beside it"):
        require_independent_cases(engine_of(model), inputs, payloads)
    steps = [{"x": np.ones((2 + number, 3), np.float32)} for number in range(3)]
    rules = InputSpec.model_validate({"tensors": {"x": {"batch": False}}})
    inputs = RecordInputs(read_record_layout(model, rules, steps), ["y"])
    require_independent_cases(engine_of(model), inputs, steps)
    assert [len(out["y"]) for out in run_records(engine_of(model), inputs, steps)] == [2, 3, 4]


def test_a_graph_that_takes_one_request_though_it_declares_more_is_refused_with_the_way() -> None:
    model = graph({"x": ["n", 3, 4]})
    model.graph.node[0].CopyFrom(helper.make_node("Reshape", ["x", "shape"], ["y"]))
    shape = onnx.numpy_helper.from_array(np.array([1, 12], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    payloads = [{"x": np.ones((3, 4), np.float32)}] * 2
    inputs = RecordInputs(read_record_layout(model, InputSpec(), payloads), ["y"])
    with pytest.raises(BadInput, match=r"one request, and not 2 at a time, .* first axis of 1"):
        find_batch_axes(engine_of(model), inputs, payloads[0])
    rules = InputSpec.model_validate({"tensors": {"x": {"shape": [1, 3, 4]}}})
    inputs = RecordInputs(read_record_layout(model, rules, payloads), ["y"])
    assert find_batch_axes(engine_of(model), inputs, payloads[0]) == {}
    assert len(run_records(engine_of(model), inputs, payloads)) == 2
