"""What ONNX Runtime's optimizer joins is spelled again, and computes what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tasks.graphs.canonical.held import require_same
from tasks.graphs.canonical.passes import make_canonical
from tasks.graphs.coverage import coverage
from tasks.graphs.sites import find_sites

Weights = Mapping[str, NDArray[np.generic]]
RNG = np.random.default_rng(11)
TOKENS, WIDTH = ["n", "t", 8], 8


def floats(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def joined(op: str, inputs: str, output: str, **options: object) -> onnx.NodeProto:
    names = [name.strip("-") for name in inputs.split()]
    outputs = [name.strip("-") for name in output.split()]
    own = op in ("MatMul", "Conv", "BatchNormalization", "Mul", "ConvTranspose")
    return helper.make_node(op, names, outputs, domain="" if own else "com.microsoft", **options)


def held(
    nodes: Sequence[onnx.NodeProto],
    weights: Weights,
    inputs: Mapping[str, tuple[Sequence[int | str], NDArray[np.generic]]],
    tmp_path: Path,
) -> onnx.ModelProto:
    """Make it canonical, and hold it against the file."""
    value = helper.make_tensor_value_info
    types = {
        name: helper.np_dtype_to_tensor_dtype(item.dtype) for name, (_, item) in inputs.items()
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [value(name, types[name], axes) for name, (axes, _) in inputs.items()],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(item), name) for name, item in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    canonical = make_canonical(model, where="model.onnx")
    feeds = {name: item for name, (_, item) in inputs.items()}
    require_same(tmp_path / "model.onnx", canonical.SerializeToString(), [feeds])
    return canonical


def layers(model: onnx.ModelProto) -> int:
    return sum(len(site.layers) for site in find_sites(model))


def foreign(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.domain]


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Relu", []),
        ("Sigmoid", []),
        ("Tanh", []),
        ("LeakyRelu", [0.3]),
        ("Clip", [-0.5, 0.75]),
        ("HardSigmoid", [0.1, 0.4]),
    ],
)
def test_a_convolution_joined_with_its_activation_is_a_layer(
    activation: str, parameters: list[float], tmp_path: Path
) -> None:
    options = {"activation": activation, "activation_params": parameters} if parameters else {}
    node = joined("FusedConv", "x w b", "y", pads=[1] * 4, **{"activation": activation} | options)
    image = {"x": (["n", 3, 6, 6], floats(2, 3, 6, 6))}
    model = held([node], {"w": floats(4, 3, 3, 3), "b": floats(4)}, image, tmp_path)
    assert (layers(model), foreign(model)) == (1, [])


def test_a_convolution_joined_with_a_sum_is_a_layer(tmp_path: Path) -> None:
    nodes = [
        joined("Conv", "x v", "z"),
        joined("FusedConv", "x w b z", "y", activation="Relu"),
    ]
    weights = {"v": floats(4, 3, 1, 1), "w": floats(4, 3, 1, 1), "b": floats(4)}
    model = held(nodes, weights, {"x": (["n", 3, 6, 6], floats(2, 3, 6, 6))}, tmp_path)
    assert (layers(model), foreign(model)) == (2, [])


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_joined_with_its_activation_is_a_layer(transposed: int, tmp_path: Path) -> None:
    options = {"activation": "LeakyRelu", "activation_alpha": 0.2, "alpha": 0.5, "beta": 2.0}
    weight = floats(5, 6) if transposed else floats(6, 5)
    node = joined("FusedGemm", "x w b", "y", transB=transposed, **options)
    model = held([node], {"w": weight, "b": floats(5)}, {"x": (["n", 6], floats(3, 6))}, tmp_path)
    assert (layers(model), foreign(model)) == (1, [])


@pytest.mark.parametrize("options", [{"transA": 1}, {"transA": 1, "transB": 1, "alpha": 0.125}])
def test_a_product_of_a_transposed_input_is_a_layer(
    options: dict[str, float], tmp_path: Path
) -> None:
    node = joined("FusedMatMul", "x w", "y", **options)
    shape = (2, 6, 3)
    model = held([node], {"w": floats(6, 6)}, {"x": (["n", 6, 3], floats(*shape))}, tmp_path)
    assert (layers(model), foreign(model)) == (1, [])


def test_a_scaled_product_of_two_activations_is_spelled(tmp_path: Path) -> None:
    nodes = [
        joined("MatMul", "x w", "k"),
        joined("FusedMatMul", "x k", "y", transB=1, alpha=0.25),
    ]
    model = held(nodes, {"w": floats(8, 8)}, {"x": (TOKENS, floats(2, 5, 8))}, tmp_path)
    assert (layers(model), foreign(model)) == (1, [])


@pytest.mark.parametrize(
    ("op", "inputs", "options"),
    [
        ("Gelu", "p", {}),
        ("BiasGelu", "p b", {}),
        ("FastGelu", "p", {}),
        ("FastGelu", "p b", {}),
        ("QuickGelu", "p", {}),
        ("QuickGelu", "p", {"alpha": 1.25}),
    ],
)
def test_activations_between_layers_are_spelled(
    op: str, inputs: str, options: dict[str, float], tmp_path: Path
) -> None:
    nodes = [
        joined("MatMul", "x w", "p"),
        joined(op, inputs, "h", **options),
        joined("MatMul", "h v", "y"),
    ]
    weights = {"w": floats(8, 8), "v": floats(8, 8), "b": floats(8)}
    model = held(nodes, weights, {"x": (TOKENS, floats(2, 5, 8))}, tmp_path)
    assert (layers(model), foreign(model)) == (2, [])


@pytest.mark.parametrize(
    ("op", "inputs", "output"),
    [
        ("SkipLayerNormalization", "x p g s", "h"),
        ("SkipLayerNormalization", "x p g s b", "h"),
        ("SkipLayerNormalization", "x p g - b", "h"),
        ("SkipLayerNormalization", "x p g s b", "t - - h"),
        ("SkipSimplifiedLayerNormalization", "x p g", "h"),
        ("SkipSimplifiedLayerNormalization", "x p g b", "t - - h"),
    ],
)
def test_norms_of_a_residual_sum_are_spelled(
    op: str, inputs: str, output: str, tmp_path: Path
) -> None:
    nodes = [
        joined("MatMul", "x w", "p"),
        joined(op, inputs, output, epsilon=1e-3),
        joined("MatMul", "h v", "y"),
    ]
    weights = {name: floats(8, 8) for name in "wv"} | {name: floats(8) for name in "gsb"}
    model = held(nodes, weights, {"x": (TOKENS, floats(2, 5, 8))}, tmp_path)
    assert (layers(model), foreign(model)) == (2, [])


@pytest.mark.parametrize("inputs", ["x w b", "x w b mask", "x w - mask"])
def test_attention_is_spelled_with_its_weights_in_a_layer(inputs: str, tmp_path: Path) -> None:
    node = joined("Attention", inputs, "y", num_heads=2)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    feeds: dict[str, tuple[Sequence[int | str], NDArray[np.generic]]] = {
        "x": (TOKENS, floats(2, 5, 8))
    }
    if "mask" in inputs:
        feeds["mask"] = (["n", "t"], mask)
    model = held([node], {"w": floats(8, 24), "b": floats(24)}, feeds, tmp_path)
    assert (layers(model), foreign(model)) == (1, [])


def test_attention_in_another_form_stays_and_its_weights_are_listed(tmp_path: Path) -> None:
    nodes = [
        joined("Attention", "x w b", "h", num_heads=2, unidirectional=1),
        joined("MatMul", "h v", "y"),
    ]
    weights = {"w": floats(8, 24), "b": floats(24), "v": floats(8, 8)}
    model = held(nodes, weights, {"x": (TOKENS, floats(2, 5, 8))}, tmp_path)
    lines = coverage(model, find_sites(model), {}).sentences
    assert "(Attention, 192 weights): its products are inside an operator that" in lines[1]


def test_joined_embeddings_are_spelled(tmp_path: Path) -> None:
    nodes = [
        joined("EmbedLayerNormalization", "ids kinds w p s g b mask", "h - t"),
        joined("MatMul", "h v", "y"),
    ]
    weights = {"w": floats(20, 8), "p": floats(16, 8), "s": floats(2, 8), "v": floats(8, 8)}
    whole = {
        name: (["n", "t"], RNG.integers(0, most, (2, 5)).astype(np.int32))
        for name, most in (("ids", 20), ("kinds", 2), ("mask", 2))
    }
    model = held(nodes, weights | {"g": floats(8), "b": floats(8)}, whole, tmp_path)
    assert (layers(model), foreign(model)) == (1, [])


def batch_norm(channels: int) -> dict[str, NDArray[np.float32]]:
    positive = {name: np.abs(floats(channels)) + np.float32(0.5) for name in ("g", "v")}
    return {**positive, "s": floats(channels), "m": floats(channels)}


@pytest.mark.parametrize("way", ["Gemm", "GemmT", "MatMul", "MatMulScalar", "grouped"])
def test_what_scales_columns_behind_a_product_is_in_it(way: str, tmp_path: Path) -> None:
    if way == "grouped":
        nodes = [
            joined("ConvTranspose", "x w", "p", group=2),
            joined("BatchNormalization", "p g s m v", "y"),
        ]
        weights = {"w": floats(4, 3, 2, 2)} | batch_norm(6)
        model = held(nodes, weights, {"x": (["n", 4, 5, 5], floats(2, 4, 5, 5))}, tmp_path)
        assert [node.op_type for node in model.graph.node] == ["ConvTranspose"]
        return
    if way.startswith("MatMul"):
        scale = floats(5) if way == "MatMul" else floats(1)[0]
        nodes = [joined("MatMul", "x w", "p"), joined("Mul", "c p", "y")]
        weights = {"w": floats(6, 5), "c": np.asarray(scale)}
    else:
        product = helper.make_node("Gemm", ["x", "w", "b"], ["p"], transB=int(way == "GemmT"))
        nodes = [product, joined("BatchNormalization", "p g s m v", "y")]
        weight = floats(5, 6) if way == "GemmT" else floats(6, 5)
        weights = {"w": weight, "b": floats(5)} | batch_norm(5)
    model = held(nodes, weights, {"x": (["n", 6], floats(3, 6))}, tmp_path)
    assert [node.op_type for node in model.graph.node] == [way[:4] if "Gemm" in way else "MatMul"]
