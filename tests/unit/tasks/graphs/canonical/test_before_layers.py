"""What scales and shifts an input before a layer is in the layer, wherever that is exact."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.graphs.coverage import coverage
from tasks.graphs.sites import find_sites
from tests.unit.tasks.graphs.canonical.test_passes import floats, graph, held, node

Chain = list[tuple[str, NDArray[np.float32], bool]]
"""Operator, constant, and whether the constant comes first."""
LAYERS = ("Conv", "padded Conv", "same Conv", "ConvTranspose", "Gemm", "Gemm, turned", "MatMul")
EXACT_SHIFTS = ("Conv", "Gemm", "Gemm, turned")
CHANNELS = 4


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, bool, bool]:
    """Draw an operator, whether its constant differs by channel, and whether it comes first."""
    op = draw(st.sampled_from(["Mul", "Div", "Add", "Sub"]))
    return op, draw(st.booleans()), op != "Div" and draw(st.booleans())


def layer_of(kind: str, source: str, groups: int) -> tuple[onnx.NodeProto, NDArray[np.float32]]:
    """Return a layer and its weight."""
    if kind == "MatMul":
        return node("MatMul", f"{source} w", "y"), floats(CHANNELS, 5)
    if kind == "Gemm":
        return node("Gemm", f"{source} w b", "y"), floats(CHANNELS, 5)
    if kind == "Gemm, turned":
        return node("Gemm", f"{source} w b", "y", transB=1), floats(5, CHANNELS)
    if kind == "ConvTranspose":
        weight = floats(CHANNELS, 5, 2, 2)
        return node("ConvTranspose", f"{source} w", "y", strides=[2, 2]), weight
    options = {"padded Conv": {"pads": [1, 1, 1, 1]}, "same Conv": {"auto_pad": "SAME_UPPER"}}
    weight = floats(6, CHANNELS // groups, 3, 3)
    return node("Conv", f"{source} w", "y", group=groups, **options.get(kind, {})), weight


def model_of(
    kind: str, drawn: list[tuple[str, bool, bool]], groups: int, last: bool
) -> onnx.ModelProto:
    """From x through the steps to one layer; `last` has the channels of an image last."""
    flat = kind in ("Gemm", "Gemm, turned", "MatMul")
    wide = [CHANNELS] if flat or last else [1, CHANNELS, 1, 1]
    weights: dict[str, NDArray[np.generic]] = {"b": floats(5)}
    nodes, source = [], "x"
    for number, (op, by_channel, first) in enumerate(drawn):
        sizes = wide if by_channel else []
        weights[f"k{number}"] = np.asarray(RNG.uniform(0.8, 2.0, sizes), np.float32)
        reads = f"k{number} {source}" if first else f"{source} k{number}"
        nodes.append(node(op, reads, f"s{number}", name=f"step{number}"))
        source = f"s{number}"
    if last and not flat:
        nodes.append(node("Transpose", source, "turned", perm=[0, 3, 1, 2]))
        source = "turned"
    layer, weights["w"] = layer_of(kind, source, groups)
    layer.name = "layer"
    shape: list[int | str] = ["n", CHANNELS] if flat else ["n", CHANNELS, 6, 6]
    if last and not flat:
        shape = ["n", 6, 6, CHANNELS]
    return graph([*nodes, layer], weights, shape)


RNG = np.random.default_rng(3)


@given(
    kind=st.sampled_from(LAYERS),
    drawn=st.lists(steps(), min_size=1, max_size=3),
    groups=st.sampled_from([1, 2]),
    last=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_an_inputs_normalisation_is_folded_where_that_is_exact_and_listed_elsewhere(
    kind: str, drawn: list[tuple[str, bool, bool]], groups: int, last: bool
) -> None:
    model = model_of(kind, drawn, groups, last)
    with tempfile.TemporaryDirectory() as folder:
        canonical = held(model, Path(folder))  # compares what both compute
    rest = [item for item in canonical.graph.node if item.op_type in ("Mul", "Div", "Add", "Sub")]
    shifts = [op in ("Add", "Sub") for op, _, _ in drawn]
    if kind in EXACT_SHIFTS:
        assert not rest
    else:  # up to the shift that is nearest to the layer
        assert len(rest) == max(
            [place + 1 for place, is_shift in enumerate(shifts) if is_shift] or [0]
        )
    shape = [item.dim_value or 2 for item in model.graph.input[0].type.tensor_type.shape.dim]
    left = coverage(canonical, find_sites(canonical), {"x": shape}).left
    assert {item.name for item in rest} <= {item.node for item in left}


MOVES = ("", "last", "squeezed", "squeezed and last")
"""What may stand between a convolution and what scales its channels."""


@given(
    kind=st.sampled_from([*LAYERS, "MatMul on the left", "a stack"]),
    drawn=st.lists(steps(), min_size=1, max_size=3),
    groups=st.sampled_from([1, 2]),
    move=st.sampled_from(MOVES),
)
@settings(max_examples=40, deadline=None)
def test_what_scales_and_shifts_channels_behind_a_layer_changes_nothing_else(
    kind: str, drawn: list[tuple[str, bool, bool]], groups: int, move: str
) -> None:
    flat = kind not in ("Conv", "padded Conv", "same Conv", "ConvTranspose")
    model = model_behind(kind, drawn, groups, "" if flat else move)
    with tempfile.TemporaryDirectory() as folder:
        canonical = held(model, Path(folder))  # compares what both compute
    rest = [item for item in canonical.graph.node if item.op_type in ("Mul", "Div", "Add", "Sub")]
    turned = any(op == "Sub" and first for op, _, first in drawn)
    if not turned and (not flat or kind.startswith("Gemm")):
        assert not rest


def model_behind(
    kind: str, drawn: list[tuple[str, bool, bool]], groups: int, move: str
) -> onnx.ModelProto:
    """From x through one layer, and what moves its axes, to steps by channel."""
    left = kind.endswith("on the left") or kind == "a stack"
    flat = left or kind in ("Gemm", "Gemm, turned", "MatMul")
    shape: list[int | str] = ["n", CHANNELS] if flat else ["n", CHANNELS, 6, 6]
    if left:
        shape = ["n", 3, CHANNELS] if kind == "a stack" else ["n", CHANNELS, 3]
        weight = floats(1, CHANNELS, 5) if kind == "a stack" else floats(5, CHANNELS)
        layer = node("MatMul", "x w" if kind == "a stack" else "w x", "s")
    else:
        layer, weight = layer_of(kind, "x", groups if kind != "ConvTranspose" else 1)
        if kind == "ConvTranspose" and groups == 2:
            layer.attribute.append(onnx.helper.make_attribute("group", 2))
        layer.output[0] = "s"
    if "squeezed" in move:  # a convolution over one line
        shape[2] = 1
        weight = weight[:, :, :1] if kind == "ConvTranspose" else weight[:, :, 1:2]
        del layer.attribute[:]
        layer.attribute.append(onnx.helper.make_attribute("group", groups))
    weights: dict[str, NDArray[np.generic]] = {"b": floats(5), "w": weight}
    channels = 5 if flat else weight.shape[0]
    if kind == "ConvTranspose":
        channels = weight.shape[1] * groups
    nodes, source = [layer], "s"
    wide = [channels] if flat else [1, channels, 1, 1]
    if kind.endswith("on the left"):
        wide = [channels, 1]
    if "squeezed" in move:
        weights["axes"], wide = np.array([2], np.int64), [1, channels, 1]
        nodes.append(node("Squeeze", "s axes", "q"))
        source = "q"
    if "last" in move:
        perm = [0, 2, 1] if "squeezed" in move else [0, 2, 3, 1]
        nodes.append(node("Transpose", source, "t", perm=perm))
        source, wide = "t", [channels]
    for number, (op, by_channel, first) in enumerate(drawn):
        sizes = wide if by_channel else []
        weights[f"k{number}"] = np.asarray(RNG.uniform(0.8, 2.0, sizes), np.float32)
        result = "y" if number == len(drawn) - 1 else f"r{number}"
        reads = f"k{number} {source}" if first else f"{source} k{number}"
        nodes.append(node(op, reads, result))
        source = result
    return graph(nodes, weights, shape)


def test_a_shift_before_zeros_are_padded_is_told(tmp_path: Path) -> None:
    model = model_of("padded Conv", [("Sub", True, False), ("Div", True, False)], 1, False)
    canonical = held(model, tmp_path)
    assert [item.op_type for item in canonical.graph.node] == ["Sub", "Conv"]
    [line] = coverage(canonical, find_sites(canonical), {"x": [1, CHANNELS, 6, 6]}).sentences[1:]
    assert line.startswith("step0 (Sub, 4 weights): it scales or shifts an input and stays: zeros")


@pytest.mark.parametrize("op", ["Mul", "BatchNormalization"])
def test_factors_that_lie_far_apart_stay_before_the_quantizer(op: str, tmp_path: Path) -> None:
    factors = np.array([1, 1, 1, 9], np.float32)
    parts = {"g": factors, "h": floats(4), "m": floats(4), "v": np.ones(4, np.float32)}
    before = (
        node("Mul", "x g4", "a") if op == "Mul" else node("BatchNormalization", "x g h m v", "a")
    )
    weights = {**parts, "g4": factors.reshape(1, 4, 1, 1), "w": floats(6, 4, 3, 3)}
    model = graph([before, node("Conv", "a w", "y")], weights, ["n", 4, 6, 6])
    assert [item.op_type for item in held(model, tmp_path).graph.node] == [op, "Conv"]


def test_a_normalization_before_a_convolution_without_padding_is_in_it(tmp_path: Path) -> None:
    parts = {"g": np.ones(4, np.float32), "h": floats(4), "m": floats(4), "v": np.full(4, 2.0)}
    weights = {name: np.asarray(value, np.float32) for name, value in parts.items()}
    nodes = [node("BatchNormalization", "x g h m v", "a"), node("Conv", "a w", "y")]
    model = graph(nodes, {**weights, "w": floats(6, 4, 3, 3)}, ["n", 4, 6, 6])
    assert [item.op_type for item in held(model, tmp_path).graph.node] == ["Conv"]


def test_one_channel_that_a_constant_makes_three_stays(tmp_path: Path) -> None:
    weights = {"k": np.ones((1, 3, 1, 1), np.float32), "w": floats(6, 3, 3, 3)}
    model = graph([node("Mul", "x k", "a"), node("Conv", "a w", "y")], weights, ["n", 1, 6, 6])
    assert [item.op_type for item in held(model, tmp_path).graph.node] == ["Mul", "Conv"]


def test_what_others_read_too_stays(tmp_path: Path) -> None:
    weights = {"k": np.float32(2), "w": floats(4, 4, 1, 1)}
    nodes = [node("Mul", "x k", "a"), node("Conv", "a w", "b"), node("Add", "a b", "y")]
    model = graph(nodes, {name: np.asarray(v) for name, v in weights.items()}, ["n", 4, 6, 6])
    assert len(held(model, tmp_path).graph.node) == 3
