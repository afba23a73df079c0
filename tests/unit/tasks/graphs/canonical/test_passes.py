"""An exporter's graph and its canonical form compute the same, and weights are where layers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from infra.engines import open_target
from infra.errors import BadInput
from tasks.graphs.canonical.held import require_same
from tasks.graphs.canonical.passes import make_canonical, notes_of
from tasks.graphs.sites import find_sites

Weights = Mapping[str, NDArray[np.generic]]
RNG = np.random.default_rng(7)
IMAGE, ROWS = ["n", 3, 8, 8], ["n", 6]


def floats(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def node(op: str, inputs: str, output: str, **options: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **options)


def graph(
    nodes: Sequence[onnx.NodeProto],
    weights: Weights,
    shape: Sequence[int | str],
    *,
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """From x to y."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def held(model: onnx.ModelProto, tmp_path: Path, *, batch: int = 4) -> onnx.ModelProto:
    """Make it canonical, and hold it against the file."""
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    canonical = make_canonical(onnx.load(path), where="model.onnx")
    shape = [item.dim_value or batch for item in model.graph.input[0].type.tensor_type.shape.dim]
    require_same(path, canonical.SerializeToString(), [{"x": floats(*shape)}])
    return canonical


W = floats(6, 5)
BEHIND: Mapping[str, tuple[Sequence[onnx.NodeProto], Weights]] = {
    "constant": ([node("Constant", "", "w", value=numpy_helper.from_array(W))], {}),
    "transpose": ([node("Transpose", "v", "w", perm=[1, 0])], {"v": W.T.copy()}),
    "identity": ([node("Identity", "v", "w")], {"v": W}),
    "cast": ([node("Cast", "v", "w", to=TensorProto.FLOAT)], {"v": W.astype(np.float64)}),
    "reshape": ([node("Reshape", "v s", "w")], {"v": W.ravel(), "s": np.array([6, 5])}),
    "squeeze": ([node("Squeeze", "v a", "w")], {"v": W[None], "a": np.array([0])}),
    "unsqueeze and squeeze": (
        [node("Unsqueeze", "v a", "u"), node("Squeeze", "u a", "w")],
        {"v": W, "a": np.array([0])},
    ),
    "slice": (
        [node("Slice", "v b e a", "w")],
        {"v": np.vstack([W, W]), "b": np.array([6]), "e": np.array([12]), "a": np.array([0])},
    ),
    "gather": ([node("Gather", "v i", "w")], {"v": np.stack([W, 2 * W]), "i": np.array(1)}),
    "a chain": (
        [node("Transpose", "v", "t", perm=[1, 0]), node("Mul", "t k", "w")],
        {"v": W.T.copy(), "k": np.array(0.5, np.float32)},
    ),
}


@pytest.mark.parametrize("way", BEHIND)
def test_a_weight_reaches_its_layer_whatever_stood_between(way: str, tmp_path: Path) -> None:
    nodes, weights = BEHIND[way]
    canonical = held(graph([*nodes, node("MatMul", "x w", "y")], weights, ROWS), tmp_path)
    assert [item.op_type for item in canonical.graph.node] == ["MatMul"]
    assert len(find_sites(canonical)) == 1


@pytest.mark.parametrize("listed", [3, 8])
def test_weights_listed_among_the_inputs_are_no_inputs(listed: int, tmp_path: Path) -> None:
    model = graph([node("MatMul", "x w", "y")], {"w": W}, ROWS, opset=8)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 5]))
    model.ir_version = listed
    canonical = held(model, tmp_path)
    assert [item.name for item in canonical.graph.input] == ["x"]
    assert len(find_sites(canonical)) == 1


@pytest.mark.parametrize("opset", range(7, 13))
def test_an_old_opset_is_raised_and_said(opset: int, tmp_path: Path) -> None:
    model = graph(
        [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Flatten", "b", "y")],
        {"w": floats(2, 3, 3, 3)},
        IMAGE,
        opset=opset,
    )
    canonical = held(model, tmp_path)
    assert notes_of(canonical) == (f"its opset {opset} is raised to 17",)


def test_an_opset_before_7_is_refused_by_its_number() -> None:
    with pytest.raises(BadInput, match="has opset 6: export it with opset 7 or later"):
        make_canonical(graph([node("MatMul", "x w", "y")], {"w": W}, ROWS, opset=6), where="m")


GEMMS = {
    "alpha": ({"alpha": 0.1}, (6, 5)),
    "beta": ({"beta": 3.0}, (6, 5)),
    "both, transposed": ({"alpha": -2.0, "beta": 0.5, "transB": 1}, (5, 6)),
}


@pytest.mark.parametrize("way", GEMMS)
def test_factors_of_a_gemm_are_in_its_weight_and_bias(way: str, tmp_path: Path) -> None:
    options, shape = GEMMS[way]
    model = graph(
        [node("Gemm", "x w b", "y", **options)], {"w": floats(*shape), "b": floats(5)}, ROWS
    )
    [gemm] = held(model, tmp_path).graph.node
    assert {item.name for item in gemm.attribute} <= {"transB"}


def test_a_transposed_input_of_a_gemm_is_transposed_before_it(tmp_path: Path) -> None:
    model = graph([node("Gemm", "x w", "y", transA=1)], {"w": floats(4, 5)}, [4, 6])
    canonical = held(model, tmp_path)
    assert [item.op_type for item in canonical.graph.node] == ["Transpose", "Gemm"]
    assert len(find_sites(canonical)) == 1


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_fused_product_of_onnx_runtime_is_a_product(transposed: int, tmp_path: Path) -> None:
    weight = floats(5, 6) if transposed else floats(6, 5)
    fused = node("FusedMatMul", "x w", "y", alpha=0.25, transB=transposed, domain="com.microsoft")
    canonical = held(graph([fused], {"w": weight}, ROWS, domains=["com.microsoft"]), tmp_path)
    assert [item.op_type for item in canonical.graph.node] == ["MatMul"]


def test_a_stack_of_one_matrix_is_a_matrix(tmp_path: Path) -> None:
    model = graph([node("MatMul", "x w", "y")], {"w": floats(1, 6, 5)}, ["n", 4, 6])
    canonical = held(model, tmp_path)
    assert find_sites(canonical)[0].layers[0].output_axis == 1
    assert tuple(canonical.graph.initializer[0].dims) == (6, 5)


def test_a_stack_that_adds_an_axis_stays(tmp_path: Path) -> None:
    canonical = held(graph([node("MatMul", "x w", "y")], {"w": floats(1, 6, 5)}, ROWS), tmp_path)
    assert not find_sites(canonical)


@pytest.mark.parametrize("shape", [[6, 4], ["n", 6, 4], ["n", 2, 6, 4]])
def test_a_weight_on_the_left_is_a_layer(shape: list[int | str], tmp_path: Path) -> None:
    canonical = held(graph([node("MatMul", "w x", "y")], {"w": floats(5, 6)}, shape), tmp_path)
    assert len(find_sites(canonical)) == 1


NORM = {"g": floats(4), "h": floats(4), "m": floats(4), "v": np.abs(floats(4)) + 0.1}
AFFINE: Mapping[str, tuple[Sequence[onnx.NodeProto], Weights]] = {
    "normalization": ([node("BatchNormalization", "a g h m v", "y", epsilon=1e-3)], NORM),
    "one factor": ([node("Mul", "a k", "y")], {"k": np.array(-0.5, np.float32)}),
    "a factor a channel": ([node("Mul", "k a", "y")], {"k": floats(1, 4, 1, 1)}),
    "without the batch's axis": ([node("Add", "a k", "y")], {"k": floats(4, 1, 1)}),
    "a difference": ([node("Sub", "a k", "y")], {"k": floats(1, 4, 1, 1)}),
    "a quotient": ([node("Div", "a k", "y")], {"k": np.array([3.0], np.float32)}),
    "all of it": (
        [
            node("BatchNormalization", "a g h m v", "c"),
            node("Mul", "c k", "d"),
            node("Add", "d k", "y"),
        ],
        {**NORM, "k": floats(4, 1, 1)},
    ),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("way", AFFINE)
def test_what_scales_channels_behind_a_convolution_is_in_it(
    way: str, groups: int, bias: bool, tmp_path: Path
) -> None:
    nodes, weights = AFFINE[way]
    own = {"w": floats(4, 4 // groups, 3, 3), **({"b": floats(4)} if bias else {})}
    conv = node("Conv", "x w b" if bias else "x w", "a", group=groups, pads=[1, 1, 1, 1])
    canonical = held(graph([conv, *nodes], {**own, **weights}, ["n", 4, 8, 8]), tmp_path)
    assert [item.op_type for item in canonical.graph.node] == ["Conv"]


@pytest.mark.parametrize("way", AFFINE)
def test_a_transposed_convolution_takes_it_along_its_own_axis(way: str, tmp_path: Path) -> None:
    nodes, weights = AFFINE[way]
    conv = node("ConvTranspose", "x w", "a", strides=[2, 2])
    canonical = held(graph([conv, *nodes], {"w": floats(3, 4, 2, 2), **weights}, IMAGE), tmp_path)
    assert [item.op_type for item in canonical.graph.node] == ["ConvTranspose"]


STAYS: Mapping[str, tuple[Sequence[onnx.NodeProto], Weights]] = {
    "read twice": ([node("Mul", "a k", "b"), node("Add", "a b", "y")], {"k": floats(1, 4, 1, 1)}),
    "along space": ([node("Mul", "a k", "y")], {"k": floats(1, 1, 1, 6)}),
    "a constant over it": ([node("Div", "k a", "y")], {"k": floats(1, 4, 1, 1)}),
    "it minus a constant, turned round": ([node("Sub", "k a", "y")], {"k": floats(1, 4, 1, 1)}),
}


@pytest.mark.parametrize("way", STAYS)
def test_what_is_no_map_of_channels_stays(way: str, tmp_path: Path) -> None:
    nodes, weights = STAYS[way]
    model = graph([node("Conv", "x w", "a"), *nodes], {"w": floats(4, 3, 3, 3), **weights}, IMAGE)
    assert len(held(model, tmp_path).graph.node) == 1 + len(nodes)


def test_half_precision_is_read_as_float32_exactly(tmp_path: Path) -> None:
    weight = floats(6, 5).astype(np.float16)
    model = graph([node("MatMul", "x w", "y")], {"w": weight}, ROWS, kind=TensorProto.FLOAT16)
    canonical = held(model, tmp_path)
    assert canonical.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    stored = numpy_helper.to_array(canonical.graph.initializer[0])
    assert stored.dtype == np.float32
    assert np.array_equal(stored, weight.astype(np.float32))
    assert "16-bit floats are read as float32" in notes_of(canonical)[0]


def test_a_branch_whose_condition_is_known_is_taken(tmp_path: Path) -> None:
    def branch(factor: float) -> onnx.GraphProto:
        value = numpy_helper.from_array(np.array(factor, np.float32))
        nodes = [node("Constant", "", "k", value=value), node("Mul", "x k", "z")]
        return helper.make_graph(
            nodes, "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
        )

    nodes = [
        node("If", "c", "t", then_branch=branch(2.0), else_branch=branch(5.0)),
        node("MatMul", "t w", "y"),
    ]
    canonical = held(graph(nodes, {"c": np.array(False), "w": W}, ROWS), tmp_path)
    assert "If" not in {item.op_type for item in canonical.graph.node}


@pytest.mark.parametrize("op", ["QuantizeLinear", "MatMulInteger", "QLinearConv"])
def test_a_quantized_graph_is_no_reference(op: str) -> None:
    model = graph([helper.make_node(op, ["x", "w", "z"], ["y"])], {"w": W}, ROWS)
    with pytest.raises(BadInput, match=f"quantized already \\({op}\\): a reference has to be"):
        make_canonical(model, where="model.onnx")


def test_metadata_of_the_file_stays(tmp_path: Path) -> None:
    model = graph([node("MatMul", "x w", "y")], {"w": W}, ROWS, opset=11)
    helper.set_model_props(model, {"character": "a\nb"})
    kept = {item.key: item.value for item in held(model, tmp_path).metadata_props}
    assert kept["character"] == "a\nb"


def test_a_graph_that_computes_something_else_is_refused_with_the_difference(
    tmp_path: Path,
) -> None:
    model = graph([node("MatMul", "x w", "y")], {"w": W}, ROWS)
    onnx.save(model, tmp_path / "model.onnx")
    other = graph([node("MatMul", "x w", "y")], {"w": W * np.float32(1.01)}, ROWS)
    with pytest.raises(BadInput, match=r"differs from the file by .* in y"):
        require_same(tmp_path / "model.onnx", other.SerializeToString(), [{"x": floats(4, 6)}])


PACKAGED = {"det": (2, 3, 64, 96), "rec": (2, 3, 48, 96), "cls": (2, 3, 48, 192)}


@pytest.mark.parametrize("part", PACKAGED)
def test_models_as_paddle_exports_them_are_taken(part: str) -> None:
    package = pytest.importorskip("rapidocr_onnxruntime", reason="of the extra `examples`")
    [path] = Path(package.__file__).parent.glob(f"models/*_{part}_*.onnx")
    canonical = make_canonical(onnx.load(path), where=str(path))
    require_same(path, canonical.SerializeToString(), [{"x": floats(*PACKAGED[part])}])
    operators = {item.op_type for item in canonical.graph.node}
    assert not operators & {"Constant", "BatchNormalization"}
    layers = [layer for site in find_sites(canonical) for layer in site.layers]
    assert len(layers) >= 45
    assert open_target("onnxruntime-cpu").load(canonical.SerializeToString())
