"""What scales and shifts the channels of a layer's result, folded into the layer.

BatchNormalization at inference is x * s + t a channel (Ioffe and Szegedy, 2015), and so are a
product with a constant and a sum with one: together with the layer before, one layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tasks.graphs.canonical.editing import GraphEditor, attributes

Channels = NDArray[np.float64]
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_SUMS = {"Add": 1.0, "Sub": -1.0}


@dataclass(frozen=True, slots=True, eq=False)
class AffineMap:
    """x * scale + shift, one number a channel or one for all."""

    scale: Channels
    shift: Channels


def fold_affine(model: onnx.ModelProto) -> None:
    """Fold BatchNormalization and constant Mul, Div, Add, Sub behind convolutions into them.

    Where nobody else reads what lies between. So for Gemm, and for constant factors behind a
    MatMul, which has no bias to take sums in.

    Args:
        model: With inferred shapes, which tell how many axes a product has.
    """
    editor = GraphEditor(model.graph)
    for node in list(model.graph.node):
        if node.op_type in _LAYERS and node.input[1] in editor.constants:
            while _folded(editor, node):
                pass
    remaining = [node for node in model.graph.node if node.op_type]
    if len(remaining) < len(model.graph.node):
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in remaining]
        del model.graph.node[:]
        model.graph.node.extend(kept)


def _folded(editor: GraphEditor, layer: onnx.NodeProto) -> bool:
    """Fold the one node that reads the layer's result, where it is affine by channel."""
    reader = editor.only_reader(layer.output[0])
    weight = editor.value(layer.input[1])
    if reader is None or weight.dtype != np.float32 or weight.ndim < 2:
        return False
    channels = _channels(layer, weight)
    change = _affine(editor, reader, layer.output[0], channels, weight.ndim)
    if change is None:
        return False
    if layer.op_type == "MatMul":
        return _scaled_product(editor, layer, reader, change)
    bias = np.zeros(channels)
    if len(layer.input) > 2 and layer.input[2]:
        if layer.input[2] not in editor.constants:
            return False
        bias = editor.value(layer.input[2]).astype(np.float64)
        if bias.size not in (1, channels):
            return False  # a Gemm's may differ by row
        bias = np.broadcast_to(bias.reshape(-1), channels)
    scale, shift = (np.broadcast_to(part, channels) for part in (change.scale, change.shift))
    layer.input[1] = editor.changed(layer.input[1], _scaled_weight(layer, weight, scale))
    _set_bias(editor, layer, (bias * scale + shift).astype(np.float32))
    layer.output[0] = reader.output[0]
    reader.Clear()  # taken out at the end
    editor.index()
    return True


def _set_bias(editor: GraphEditor, layer: onnx.NodeProto, values: NDArray[np.float32]) -> None:
    if len(layer.input) > 2 and layer.input[2]:
        layer.input[2] = editor.changed(layer.input[2], values)
        return
    name = editor.add(f"{layer.input[1].removesuffix('.weight')}.bias", values)
    layer.input[2:] = [name]


def _scaled_product(
    editor: GraphEditor, layer: onnx.NodeProto, reader: onnx.NodeProto, change: AffineMap
) -> bool:
    weight = editor.value(layer.input[1])
    if weight.ndim != 2 or change.shift.any():
        return False
    scaled = (weight.astype(np.float64) * change.scale).astype(np.float32)
    layer.input[1] = editor.changed(layer.input[1], scaled)
    layer.output[0] = reader.output[0]
    reader.Clear()
    editor.index()
    return True


def _channels(layer: onnx.NodeProto, weight: NDArray[np.generic]) -> int:
    """Return how many channels a layer makes."""
    options = attributes(layer)
    if layer.op_type == "ConvTranspose":
        return int(weight.shape[1]) * int(str(options.get("group", 1)))
    if layer.op_type == "MatMul" or (layer.op_type == "Gemm" and not options.get("transB", 0)):
        return int(weight.shape[-1])
    return int(weight.shape[0])


def _scaled_weight(
    layer: onnx.NodeProto, weight: NDArray[np.generic], scale: Channels
) -> NDArray[np.float32]:
    """Multiply the weights of each channel; a transposed convolution has them by group."""
    options = attributes(layer)
    if layer.op_type == "ConvTranspose":
        groups = int(str(options.get("group", 1)))
        parted = weight.reshape(groups, -1, *weight.shape[1:]).astype(np.float64)
        along = [groups, 1, weight.shape[1], *[1] * (weight.ndim - 2)]
        return (parted * scale.reshape(along)).reshape(weight.shape).astype(np.float32)
    of_columns = layer.op_type == "Gemm" and not options.get("transB", 0)
    along = [1, -1] if of_columns else [-1, *[1] * (weight.ndim - 1)]
    return (weight.astype(np.float64) * scale.reshape(along)).astype(np.float32)


def _affine(
    editor: GraphEditor, node: onnx.NodeProto, tensor: str, channels: int, rank: int
) -> AffineMap | None:
    product = editor.makers[tensor].op_type == "MatMul"
    if node.op_type == "BatchNormalization":
        return None if product else _normalization(editor, node)
    if node.op_type not in ("Mul", "Div", *_SUMS) or len(node.input) != 2:
        return None
    place = 1 - list(node.input).index(tensor)
    if node.input[place] not in editor.constants or (node.op_type in ("Div", "Sub") and place == 0):
        return None
    value = editor.value(node.input[place])
    values = _last_axis(value, channels) if product else _by_channel(value, channels, rank)
    if values is None:
        return None
    one, zero = np.ones(1), np.zeros(1)
    if node.op_type in _SUMS:
        return AffineMap(one, values * _SUMS[node.op_type])
    return AffineMap(values if node.op_type == "Mul" else 1 / values, zero)


def _normalization(editor: GraphEditor, node: onnx.NodeProto) -> AffineMap | None:
    options = attributes(node)
    if options.get("training_mode", 0) or len([name for name in node.output if name]) > 1:
        return None
    if any(name not in editor.constants for name in node.input[1:]):
        return None
    gain, shift, mean, variance = (
        editor.value(name).astype(np.float64) for name in node.input[1:5]
    )
    scale = gain / np.sqrt(variance + float(str(options.get("epsilon", 1e-5))))
    return AffineMap(scale, shift - mean * scale)


def _last_axis(values: NDArray[np.generic], channels: int) -> Channels | None:
    """Return a constant as one number for each entry of the last axis; None where it has others.

    A constant of more axes than the product would give it more: only [channels] is sure to have
    no more, and one number without an axis.
    """
    if values.dtype != np.float32 or values.shape not in ((channels,), ()):
        return None
    return values.astype(np.float64).reshape(-1)


def _by_channel(values: NDArray[np.generic], channels: int, rank: int) -> Channels | None:
    """Return a constant as one number a channel, or one for all; None where it varies otherwise.

    `rank` counts the axes of what it meets, [batch, channels, space...].
    """
    if values.dtype != np.float32 or values.ndim > rank:
        return None
    if values.size == 1:
        return values.astype(np.float64).reshape(1)
    shape = (1,) * (rank - values.ndim) + values.shape
    if shape[1] != channels or values.size != channels:
        return None
    return values.astype(np.float64).reshape(channels)
