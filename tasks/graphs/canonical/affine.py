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
_SUMS = {"Add": 1.0, "Sub": -1.0}


@dataclass(frozen=True, slots=True, eq=False)
class AffineMap:
    """x * scale + shift, one number a channel or one for all."""

    scale: Channels
    shift: Channels


def fold_affine(model: onnx.ModelProto) -> None:
    """Fold BatchNormalization and constant Mul, Div, Add, Sub behind convolutions into them.

    Where nobody else reads what lies between. Products of matrices take constant factors in, and
    keep their sums behind them.
    """
    editor = GraphEditor(model.graph)
    for node in list(model.graph.node):
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in editor.constants:
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
    channels, axis = _channels(layer, weight)
    if reader is None or channels is None or weight.dtype != np.float32:
        return False
    change = _affine(editor, reader, layer.output[0], channels, weight.ndim)
    if change is None:
        return False
    bias = np.zeros(channels)
    if len(layer.input) > 2 and layer.input[2]:
        if layer.input[2] not in editor.constants:
            return False
        bias = editor.value(layer.input[2]).astype(np.float64)
    scale, shift = (np.broadcast_to(part, channels) for part in (change.scale, change.shift))
    along = [1] * weight.ndim
    along[axis] = channels
    scaled = weight.astype(np.float64) * scale.reshape(along)
    layer.input[1] = editor.changed(layer.input[1], scaled.astype(np.float32))
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


def _channels(layer: onnx.NodeProto, weight: NDArray[np.generic]) -> tuple[int | None, int]:
    """Return how many channels a convolution makes, and along which axis of its weight."""
    if layer.op_type == "Conv":
        return weight.shape[0], 0
    groups = int(str(attributes(layer).get("group", 1)))
    return (weight.shape[1], 1) if groups == 1 else (None, 1)


def _affine(
    editor: GraphEditor, node: onnx.NodeProto, tensor: str, channels: int, rank: int
) -> AffineMap | None:
    if node.op_type == "BatchNormalization":
        return _normalization(editor, node)
    if node.op_type not in ("Mul", "Div", *_SUMS) or len(node.input) != 2:
        return None
    place = 1 - list(node.input).index(tensor)
    if node.input[place] not in editor.constants or (node.op_type in ("Div", "Sub") and place == 0):
        return None
    values = _by_channel(editor.value(node.input[place]), channels, rank)
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
