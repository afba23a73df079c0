"""Streaming graphs: states come back with the next chunk, in calibration as in judging."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from infra.engines import open_target
from infra.errors import BadInput
from tasks.models.custom.inputs import RecordInputs, find_batch_axes, run_records
from tasks.models.custom.layout import read_record_layout
from tasks.models.custom.streams import first_states
from tasks.specs.spec import InputSpec
from tasks.specs.tensors import RecordLayout, dump_layout, parse_layout

CHUNKS, WIDTH = 5, 4
RULES = {"states": {"h": "h_next"}}


def recurrent(state: int = WIDTH, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Return h' = h W + x, y = 2 h', with the state's axes [1, width]."""
    value = helper.make_tensor_value_info
    weight = np.eye(WIDTH, dtype=np.float32) / 2
    nodes = [
        helper.make_node("MatMul", ["h", "w"], ["kept"], "recur"),
        helper.make_node("Add", ["kept", "x"], ["sum"], "add"),
        helper.make_node("Add", ["sum", "sum"], ["y"], "double"),
        helper.make_node("Slice", ["sum", "zero", "size", "one"], ["cut"], "cut"),
        helper.make_node("Cast", ["cut"], ["h_next"], "cast", to=kind),
    ]
    constants = {"w": weight, "zero": [0], "size": [state], "one": [1]}
    graph = helper.make_graph(
        nodes,
        "stream",
        [value("x", TensorProto.FLOAT, ["n", WIDTH]), value("h", TensorProto.FLOAT, [1, WIDTH])],
        [value("y", TensorProto.FLOAT, ["n", WIDTH]), value("h_next", kind, None)],
        [numpy_helper.from_array(np.asarray(item), name) for name, item in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def requests(count: int = 2) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    return [{"x": rng.standard_normal((CHUNKS, WIDTH)).astype(np.float32)} for _ in range(count)]


def opened(model: onnx.ModelProto, rules: dict[str, Any]) -> tuple[Any, RecordInputs, RecordLayout]:
    engine = open_target("onnxruntime-cpu").load(model.SerializeToString())
    layout = read_record_layout(model, InputSpec.model_validate(rules), requests())
    return engine, RecordInputs(layout, ["y"], reference=lambda: engine), layout


def expected(record: dict[str, Any], first: float = 0.0) -> list[Any]:
    state, outputs = np.full(WIDTH, first, np.float32), []
    for chunk in record["x"]:
        state = state / 2 + chunk
        outputs.append(2 * state)
    return outputs


@pytest.mark.parametrize("first", [0.0, 1.5])
def test_chunks_of_a_request_go_through_in_order_with_the_state_of_the_last(first: float) -> None:
    engine, inputs, layout = opened(
        recurrent(), {"states": {"h": {"output": "h_next", "initial": first}}}
    )
    assert layout.tensors["x"].axes == ("chunks", WIDTH)
    assert layout.alone
    payloads = requests()
    for output, record in zip(run_records(engine, inputs, payloads), payloads, strict=True):
        np.testing.assert_allclose(output["y"], expected(record, first), rtol=1e-6)
    assert find_batch_axes(engine, inputs, payloads[0]) == {}
    assert parse_layout(dump_layout(layout), where="inputs.json") == layout


def test_calibration_sees_every_chunk_with_full_precisions_state() -> None:
    engine, inputs, _ = opened(recurrent(), RULES)
    (payload,) = requests(1)
    batches = list(inputs.batches([payload]))
    assert [batch.cases.tolist() for batch in batches] == [[0]] * CHUNKS
    states = [np.zeros(WIDTH), *(output / 2 for output in expected(payload)[:-1])]
    for batch, state, chunk in zip(batches, states, payload["x"], strict=True):
        np.testing.assert_allclose(batch.feeds["h"], [state], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(batch.feeds["x"], [chunk])
        np.testing.assert_allclose(engine.run(batch.feeds)["y"][0], 2 * (state / 2 + chunk), 1e-5)


def test_engines_are_built_for_one_chunk_and_its_state() -> None:
    _, inputs, _ = opened(recurrent(), RULES)
    assert {name: shapes.largest for name, shapes in inputs.profile.items()} == {
        "x": (1, WIDTH),
        "h": (1, WIDTH),
    }


@pytest.mark.parametrize(
    ("model", "rules", "why"),
    [
        (recurrent(0), RULES, r"h_next is float32 of shape \[1, 0\], and the input h .* \[1, 4\]"),
        (recurrent(kind=TensorProto.DOUBLE), RULES, "h_next is float64 of shape"),
        (recurrent(), {"states": {"c": "h_next"}}, "input.states.c: the graph has no input c"),
        (recurrent(), {"states": {"h": "hn"}}, "input.states.h: the graph has no output hn"),
        (
            recurrent(),
            {"states": {"h": {"output": "h_next", "initial": [1, 2]}}},
            r"initial has 2 numbers, and the state has 4, in shape \[1, 4\]",
        ),
    ],
)
def test_a_state_that_cannot_come_back_is_refused(
    model: onnx.ModelProto, rules: dict[str, Any], why: str
) -> None:
    def run() -> None:
        engine, inputs, _ = opened(model, rules)
        run_records(engine, inputs, requests())

    with pytest.raises(BadInput, match=why):
        run()


def test_a_state_begins_with_what_the_spec_gives() -> None:
    rules = {"states": {"h": {"output": "h_next", "initial": [1, 2, 3, 4]}}}
    _, _, layout = opened(recurrent(), rules)
    np.testing.assert_array_equal(first_states(layout.states)["h"], [[1, 2, 3, 4]])
