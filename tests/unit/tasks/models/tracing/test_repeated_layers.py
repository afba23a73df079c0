"""A decoder that is exported from few of its layers computes what the whole one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from infra.engines import open_target
from infra.settings import Settings
from tasks.graphs.weights import inside
from tasks.models.language.decoder import CachedDecoder, flatten, load_decoder
from tasks.models.language.layout import read_layout
from tasks.models.tracing.decoder_export import decoder_from_template
from tasks.models.tracing.repeated_layers import EXPORTED, find_layers, repeat_layers
from tests.language_folders import write_folder

LAYERS = 6
LONGEST = 40


def told_apart(decoder: CachedDecoder, *, layers: int = LAYERS) -> None:
    """Give the norms of some layers weights of their own; a new model's are all the same."""
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 1 and any(f".{number}." in name for number in range(layers)):
            torch.nn.init.uniform_(parameter.requires_grad_(False), 0.5, 1.5)


def graph_and_answers(
    folder: Path, family: str, *, alike: bool
) -> tuple[onnx.ModelProto | None, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return what is made of a template, and feeds with torch's answers by the whole model."""
    decoder, layout, probe, shapes = load_decoder(
        write_folder(folder, family, layers=LAYERS), LONGEST
    )
    if not alike:
        told_apart(decoder)
    with torch.no_grad():
        answers = dict(zip(layout.outputs, decoder(**probe), strict=True))
    graph = decoder_from_template(decoder, layout, probe, shapes, beside=False)
    feeds = {name: value.numpy() for name, value in flatten(probe).items()}
    return graph, feeds, {name: value.numpy() for name, value in answers.items()}


@pytest.mark.parametrize(
    ("family", "alike"),
    [
        ("llama", False),
        pytest.param("llama", True, marks=pytest.mark.soak),
        pytest.param("qwen2", False, marks=pytest.mark.soak),
        pytest.param("gpt2", False, marks=pytest.mark.soak),
    ],
)
def test_a_repeated_layer_computes_what_the_model_does(
    workspace: Settings, tmp_path: Path, family: str, alike: bool
) -> None:
    graph, feeds, answers = graph_and_answers(tmp_path, family, alike=alike)
    assert graph is not None
    onnx.checker.check_model(graph, full_check=True)
    assert len(read_layout(graph).layers) == LAYERS
    outputs = open_target("onnxruntime-cpu").load_exact(graph.SerializeToString(), {}).run(feeds)
    assert list(outputs) == list(answers)
    for name, answer in answers.items():
        np.testing.assert_allclose(outputs[name], answer, atol=1e-4 * np.abs(answer).max())
    assert not any(node.metadata_props for node in graph.graph.node)


def layered(*operators: str) -> onnx.ModelProto:
    """Return a graph whose layer adds a weight and does one thing more, as torch notes it."""
    nodes, value = [], "x"
    for number, operator in enumerate(operators):
        for name, op, read in (
            ("add", "Add", [value, f"layers.{number}.w"]),
            ("do", operator, [f"add{number}"]),
        ):
            node = onnx.helper.make_node(op, read, [f"{name}{number}"], f"node_{name}{number}")
            scopes = f"['', 'layers.{number}', '{name}']"
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
            nodes.append(node)
        value = f"do{number}"
    nodes.append(onnx.helper.make_node("Neg", [value], ["y"], "node_tail"))
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")
    ]
    weights = [inside(weight(number), f"layers.{number}.w") for number in range(len(operators))]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])


def weight(number: int) -> np.ndarray:
    return np.asarray([number, -number], np.float32)


WEIGHTS = {f"layers.{number}.w": weight(number) for number in range(5)}


def test_the_layers_behind_the_exported_ones_have_their_own_weights() -> None:
    model = layered("Abs", "Abs", "Abs")
    assert repeat_layers(model, "layers", 5, WEIGHTS, inside)
    value = np.asarray([-7.0, 3.0], np.float32)
    (answer,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": value})
    for number in range(5):
        value = np.abs(value + weight(number))
    np.testing.assert_array_equal(answer, -value)


def test_layers_that_are_not_the_same_nodes_are_not_repeated() -> None:
    model = layered("Abs", "Abs", "Relu")
    before = model.SerializeToString()
    assert not repeat_layers(model, "layers", 5, WEIGHTS, inside)
    assert model.SerializeToString() == before


def test_a_weight_that_was_stored_with_another_is_not_taken_for_all_layers() -> None:
    model = layered("Abs", "Abs", "Abs")
    merged = {**WEIGHTS, **{f"layers.{number}.gain": np.ones(2) for number in range(5)}}
    assert repeat_layers(layered("Abs", "Abs", "Abs"), "layers", 5, merged, inside)
    merged["layers.4.gain"] = np.asarray([1.0, 1.001])
    assert not repeat_layers(model, "layers", 5, merged, inside)


def test_a_layer_of_another_width_is_not_repeated() -> None:
    odd = {**WEIGHTS, "layers.4.w": np.zeros(3, np.float32)}
    assert not repeat_layers(layered("Abs", "Abs", "Abs"), "layers", 5, odd, inside)


def test_few_layers_and_lists_that_are_not_plain_are_traced_whole() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.ModuleList(torch.nn.Identity() for _ in range(LAYERS))
            self.second = torch.nn.ModuleList(torch.nn.Identity() for _ in range(LAYERS))

    assert find_layers(Two(), LAYERS) is None
    few = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Identity()] * EXPORTED)})
    assert find_layers(few, EXPORTED) is None
