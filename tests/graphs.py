"""Small ONNX graphs whose answers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]
Shape = Sequence[int | str]


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, NDArray[np.generic]],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    *,
    opset: int = 20,
) -> onnx.ModelProto:
    """Make a graph of float inputs and outputs."""
    values = [
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in side.items()
        ]
        for side in (inputs, outputs)
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "g", values[0], values[1], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def product(weight: Floats, *, module: str = "fc", tokens: bool = False) -> onnx.ModelProto:
    """Return x @ weight + bias, weight [inputs, outputs], as exports write a linear layer."""
    inputs, outputs = weight.shape
    lead: Shape = ["batch", "tokens"] if tokens else ["batch"]
    nodes = [
        helper.make_node("MatMul", ["x", "val_0"], ["product"], "node_MatMul_0"),
        helper.make_node("Add", ["product", f"{module}.bias"], ["y"], "node_Add_0"),
    ]
    bias = np.linspace(-1, 1, outputs, dtype=np.float32)
    return model(
        nodes,
        {"val_0": weight, f"{module}.bias": bias},
        {"x": [*lead, inputs]},
        {"y": [*lead, outputs]},
    )


def gemm(weight: Floats, *, transposed: bool) -> onnx.ModelProto:
    """Return x @ weight + bias; `transposed` holds the weight as [outputs, inputs]."""
    outputs = weight.shape[0] if transposed else weight.shape[1]
    node = helper.make_node(
        "Gemm", ["x", "fc.weight", "fc.bias"], ["y"], "node_Gemm_0", transB=int(transposed)
    )
    inputs = weight.shape[1] if transposed else weight.shape[0]
    weights = {"fc.weight": weight, "fc.bias": np.ones(outputs, np.float32)}
    return model([node], weights, {"x": ["batch", inputs]}, {"y": ["batch", outputs]})


def convolution(weight: Floats, *, size: int = 6) -> onnx.ModelProto:
    """Make a convolution, weight [outputs, inputs, k, k], without padding."""
    outputs, inputs, kernel, _ = weight.shape
    node = helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["y"], "node_Conv_0")
    left = size - kernel + 1
    weights = {"conv.weight": weight, "conv.bias": np.zeros(outputs, np.float32)}
    return model(
        [node], weights, {"x": ["batch", inputs, size, size]}, {"y": ["batch", outputs, left, left]}
    )


def convolutions(seed: int = 0, *, grouped: bool = False) -> onnx.ModelProto:
    """Make Conv, ReLU, Conv, 3 channels to 8 to 4, with kernels of unlike ranges.

    The second may read 4 groups of channels. x [batch, 3, 8, 8] -> y [batch, 4, 8, 8].
    """
    rng = np.random.default_rng(seed)
    gain = (10.0 ** np.linspace(-1.5, 1.5, 8)).astype(np.float32)
    inner = 2 if grouped else 8
    second = rng.standard_normal((4, inner, 3, 3)).astype(np.float32)
    by_channel = gain.reshape(4, 2) if grouped else np.broadcast_to(gain, (4, 8))
    weights: dict[str, NDArray[np.generic]] = {
        "first.weight": rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
        * gain.reshape(-1, 1, 1, 1),
        "first.bias": (rng.standard_normal(8) * gain).astype(np.float32),
        "second.weight": second / by_channel[:, :, None, None],
        "second.bias": rng.standard_normal(4).astype(np.float32),
    }
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["p"], "node_first", **same),
        helper.make_node("Relu", ["p"], ["h"], "node_relu"),
        helper.make_node(
            "Conv",
            ["h", "second.weight", "second.bias"],
            ["y"],
            "node_second",
            group=4 if grouped else 1,
            **same,
        ),
    ]
    return model(nodes, weights, {"x": ["batch", 3, 8, 8]}, {"y": ["batch", 4, 8, 8]})


def encoder(width: int = 16, *, layers: int = 2, seed: int = 0) -> onnx.ModelProto:
    """Make single-head attention and a ReLU network with residuals and random weights.

    [batch, tokens, width] -> the same. Some layers get outlier input channels, as trained
    transformers do, so that sites differ in sensitivity.
    """
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, NDArray[np.generic]] = {"root": np.float32(width**0.5)}

    def linear(source: str, name: str, inputs: int, outputs: int) -> str:
        gain = rng.lognormal(0, 0.7, (inputs, 1))
        weights[f"{name}.w"] = (rng.standard_normal((inputs, outputs)) * gain / inputs**0.5).astype(
            np.float32
        )
        weights[f"{name}.bias"] = (rng.standard_normal(outputs) * 0.1).astype(np.float32)
        nodes.append(
            helper.make_node("MatMul", [source, f"{name}.w"], [f"{name}.p"], f"{name}.MatMul")
        )
        nodes.append(
            helper.make_node("Add", [f"{name}.p", f"{name}.bias"], [f"{name}.y"], f"{name}.Add")
        )
        return f"{name}.y"

    def apply(op: str, sources: list[str], out: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, sources, [out], f"{out}.{op}", **attributes))
        return out

    now = "x"
    for index in range(layers):
        at = f"layer.{index}"
        query, key, value = (
            linear(now, f"{at}.attention.{part}", width, width)
            for part in ("query", "key", "value")
        )
        turned = apply("Transpose", [key], f"{at}.turned", perm=[0, 2, 1])
        scores = apply(
            "Div", [apply("MatMul", [query, turned], f"{at}.raw"), "root"], f"{at}.scores"
        )
        mixed = apply("MatMul", [apply("Softmax", [scores], f"{at}.shares"), value], f"{at}.mixed")
        now = apply(
            "Add", [now, linear(mixed, f"{at}.attention.output", width, width)], f"{at}.attended"
        )
        inner = apply("Relu", [linear(now, f"{at}.up", width, 4 * width)], f"{at}.inner")
        now = apply("Add", [now, linear(inner, f"{at}.down", 4 * width, width)], f"{at}.out")
    shape: Shape = ["batch", "tokens", width]
    nodes[-1].output[0] = "y"
    return model(nodes, weights, {"x": shape}, {"y": shape})


def run(graph: onnx.ModelProto, x: NDArray[np.generic], *, optimize: bool = True) -> Floats:
    """Return the graph's first output on ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: Floats = session.run(None, {"x": x})[0]
    return result


def residual_network(width: int = 32, *, blocks: int = 4, seed: int = 0) -> onnx.ModelProto:
    """Make x + down(relu(up(norm(x)))), repeated, with outlier channels of unlike strength.

    [batch, width] -> the same. In trained transformers such channels, not the layer's kind, decide
    what INT8 costs.
    """
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, NDArray[np.generic]] = {}
    now = "x"
    for index in range(blocks):
        at = f"block.{index}"
        gain = np.ones(width, np.float32)
        gain[rng.integers(width)] = 10 ** rng.uniform(0, 2.5)
        up = rng.standard_normal((width, 4 * width)) / width**0.5 / gain[:, None]
        up[:, rng.integers(4 * width)] *= 10 ** rng.uniform(0, 2.5)
        down = rng.standard_normal((4 * width, width)) / (4 * width) ** 0.5
        down /= np.maximum(np.linalg.norm(up, axis=0), 1e-6)[:, None]
        weights |= {
            f"{at}.gain": gain,
            f"{at}.up.w": up.astype(np.float32),
            f"{at}.down.w": down.astype(np.float32),
            f"{at}.up.bias": np.zeros(4 * width, np.float32),
            f"{at}.down.bias": np.zeros(width, np.float32),
        }
        out = "y" if index == blocks - 1 else f"{at}.out"
        nodes += [
            helper.make_node(
                "LayerNormalization", [now, f"{at}.gain"], [f"{at}.normed"], f"{at}.norm"
            ),
            helper.make_node("MatMul", [f"{at}.normed", f"{at}.up.w"], [f"{at}.p"], f"{at}.up"),
            helper.make_node("Add", [f"{at}.p", f"{at}.up.bias"], [f"{at}.q"], f"{at}.up.add"),
            helper.make_node("Relu", [f"{at}.q"], [f"{at}.inner"], f"{at}.relu"),
            helper.make_node("MatMul", [f"{at}.inner", f"{at}.down.w"], [f"{at}.r"], f"{at}.down"),
            helper.make_node("Add", [f"{at}.r", f"{at}.down.bias"], [f"{at}.s"], f"{at}.down.add"),
            helper.make_node("Add", [now, f"{at}.s"], [out], f"{at}.add"),
        ]
        now = out
    return model(nodes, weights, {"x": ["batch", width]}, {"y": ["batch", width]})
