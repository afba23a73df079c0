"""Known tasks on graphs with names, types and batches of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from infra.engines import open_target
from infra.errors import BadInput
from tasks.models.inputs import ImageInputs, open_inputs, run_all
from tasks.specs.spec import ModelSpec
from tests.kind_folders import tokenizer
from tests.unit.tasks.specs.test_spec import parse

Inputs = Mapping[str, tuple[int, Sequence[int | str]]]


def graph(inputs: Inputs, outputs: Sequence[str] = ("y",)) -> onnx.ModelProto:
    """Return a graph that gives each output the mean of its first input as floats."""
    first = next(iter(inputs))
    nodes = [helper.make_node("Cast", [first], ["f"], "cast", to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Flatten", ["f"], [name], f"flat {name}") for name in outputs]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, axes) for name, (kind, axes) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def image_spec(**changes: Any) -> ModelSpec:
    return parse(input={"shape": [1, 2, 2], **changes.pop("names", {})}, **changes)


@pytest.mark.parametrize(("batch", "kind"), [("n", TensorProto.FLOAT), (4, TensorProto.UINT8)])
def test_a_single_input_and_output_need_no_name(batch: int | str, kind: int) -> None:
    model = graph({"x": (kind, [batch, 1, 2, 2])}, ["fetch_name_0"])
    inputs = open_inputs(image_spec(), None, model)
    images = [np.full((1, 2, 2), number, np.float32) for number in range(18)]
    engine = open_target("onnxruntime-cpu").load(model.SerializeToString())
    outputs = run_all(engine, inputs, images)
    assert outputs[:, 0].tolist() == list(range(18))
    sizes = {len(one.cases) for one in inputs.batches(images)}
    assert sizes == ({4} if batch == 4 else {16, 2})


def test_several_are_told_apart_by_the_spec() -> None:
    model = graph({"x": (TensorProto.FLOAT, ["n", 1, 2, 2])}, ["a", "b"])
    with pytest.raises(BadInput, match=r"the graph maps x to a, b, .* say which is which"):
        open_inputs(image_spec(), None, model)
    assert open_inputs(image_spec(outputs=["b"]), None, model).output == "b"


def test_a_graph_with_the_tasks_own_names_is_taken_as_before() -> None:
    model = graph({"image": (TensorProto.FLOAT, ["n", 1, 2, 2])}, ["logits"])
    assert isinstance(open_inputs(image_spec(), None, model), ImageInputs)


def test_a_text_encoder_of_int32_gets_its_segments() -> None:
    axes = ["n", "t"]
    names = ("ids", "attention_mask", "token_type_ids")
    model = graph(dict.fromkeys(names, (TensorProto.INT32, axes)))
    spec = parse(
        task="text-embedding",
        input={"tokenizer": "tokenizer.json"},
        budgets={
            "latency_ratio": 1,
            "size_ratio": 1,
            "quality": [{"metric": "cosine", "at_least": 0.9}],
        },
    )
    inputs = open_inputs(spec, tokenizer().to_str().encode(), model)
    (batch,) = inputs.batches(["red", "a b"])
    assert {name: value.dtype for name, value in batch.feeds.items()} == dict.fromkeys(
        names, np.dtype(np.int32)
    )
    assert not batch.feeds["token_type_ids"].any()
    assert isinstance(inputs.profile, dict)
    assert set(inputs.profile) == set(names)
