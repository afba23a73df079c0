"""What scales and shifts the channels of what a layer makes or reads, folded into the layer.

BatchNormalization at inference is x * s + t a channel (Ioffe and Szegedy, 2015), and so are a
product with a constant and a sum with one: together with the layer before, one layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tasks.graphs.canonical.editing import GraphEditor, attributes
from tasks.graphs.canonical.shapes import known_sizes

Channels = NDArray[np.float64]
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_SUMS = {"Add": 1.0, "Sub": -1.0}
_AFFINE = frozenset({"Mul", "Div", "BatchNormalization", *_SUMS})
WIDEST = 4.0
"""Of the factors of channels before a layer, the largest over the least that are folded: one
quantizer serves all channels of what is left, which such factors may have evened out."""


@dataclass(frozen=True, slots=True, eq=False)
class AffineMap:
    """x * scale + shift, one number a channel or one for all."""

    scale: Channels
    shift: Channels


def fold_affine(model: onnx.ModelProto) -> None:
    """Fold BatchNormalization and constant Mul, Div, Add, Sub behind convolutions into them.

    Where nobody else reads what lies between. So for Gemm, and for constant factors behind a
    MatMul, which has no bias to take sums in. What scales and shifts the channels before a layer,
    as an input's normalisation does, is folded where that is exact: a shift only where no zeros are
    padded behind it.

    Args:
        model: With inferred shapes, which tell how many axes a product has.
    """
    editor = GraphEditor(model.graph)
    for node in list(model.graph.node):
        if node.op_type in _LAYERS and node.input[1] in editor.constants:
            while _folded(editor, node):
                pass
    for node in list(model.graph.node):
        if node.op_type in _LAYERS and node.input[1] in editor.constants:
            while _folded_before(editor, node):
                pass
    _drop_cleared(model)


def _drop_cleared(model: onnx.ModelProto) -> None:
    remaining = [node for node in model.graph.node if node.op_type]
    if len(remaining) < len(model.graph.node):
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in remaining]
        del model.graph.node[:]
        model.graph.node.extend(kept)


def _folded(editor: GraphEditor, layer: onnx.NodeProto) -> bool:
    """Fold the one node that reads the layer's result, where it is affine by channel.

    What only moves axes may stand between, as where channels come last.
    """
    weight = editor.value(layer.input[1])
    if weight.dtype != np.float32 or weight.ndim < 2:
        return False
    channels = _channels(layer, weight)
    last = _Behind(layer, weight.ndim, 1)
    if layer.op_type != "MatMul":
        while (moved := _moved(editor, last)) is not None:
            last = moved
    reader = editor.only_reader(last.node.output[0])
    change = None if reader is None else _affine(editor, reader, last, channels)
    if reader is None or change is None:
        return False
    if layer.op_type == "MatMul":
        return _scaled_product(editor, layer, reader, change)
    bias = _bias(editor, layer, channels)
    if bias is None:
        return False
    scale, shift = (np.broadcast_to(part, channels) for part in (change.scale, change.shift))
    layer.input[1] = editor.changed(layer.input[1], _scaled_weight(layer, weight, scale))
    _set_bias(editor, layer, (bias * scale + shift).astype(np.float32))
    last.node.output[0] = reader.output[0]
    reader.Clear()  # taken out at the end
    editor.index()
    return True


def _bias(editor: GraphEditor, layer: onnx.NodeProto, channels: int) -> Channels | None:
    """Return a layer's constant bias, zeros where it has none; None where it is no such thing."""
    if len(layer.input) < 3 or not layer.input[2]:
        return np.zeros(channels)
    if layer.input[2] not in editor.constants:
        return None
    bias = editor.value(layer.input[2]).astype(np.float64)
    # A Gemm's may differ by row.
    return np.broadcast_to(bias.reshape(-1), channels) if bias.size in (1, channels) else None


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


@dataclass(frozen=True, slots=True)
class _Behind:
    """A layer, or what moves the axes of its result: where the channels then lie."""

    node: onnx.NodeProto
    rank: int
    axis: int


def _moved(editor: GraphEditor, before: _Behind) -> _Behind | None:
    """Return the one node that reads a result and only moves its axes; None where another does."""
    node = editor.only_reader(before.node.output[0])
    if node is None:
        return None
    if node.op_type == "Transpose":
        perm = attributes(node).get("perm")
        if not isinstance(perm, list) or len(perm) != before.rank:
            return None
        return _Behind(node, before.rank, perm.index(before.axis))
    if node.op_type not in ("Squeeze", "Unsqueeze") or len(node.input) < 2:
        return None
    if node.input[1] not in editor.constants:
        return None
    axes = editor.value(node.input[1]).reshape(-1).tolist()
    rank = before.rank + (len(axes) if node.op_type == "Unsqueeze" else -len(axes))
    wide = max(rank, before.rank)  # of what the axes are counted in
    kept = [place for place in range(wide) if place not in {axis % wide for axis in axes}]
    if node.op_type == "Unsqueeze":
        return _Behind(node, rank, kept[before.axis])
    return _Behind(node, rank, kept.index(before.axis)) if before.axis in kept else None


def _affine(
    editor: GraphEditor, node: onnx.NodeProto, before: _Behind, channels: int
) -> AffineMap | None:
    product, tensor = before.node.op_type == "MatMul", before.node.output[0]
    if node.op_type == "BatchNormalization":
        return None if product or before.axis != 1 else _normalization(editor, node)
    if node.op_type not in ("Mul", "Div", *_SUMS) or len(node.input) != 2:
        return None
    place = 1 - list(node.input).index(tensor)
    if node.input[place] not in editor.constants or (node.op_type in ("Div", "Sub") and place == 0):
        return None
    value = editor.value(node.input[place])
    values = (
        _last_axis(value, channels)
        if product
        else _by_channel(value, channels, before.rank, before.axis)
    )
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


def _by_channel(
    values: NDArray[np.generic], channels: int, rank: int, axis: int = 1
) -> Channels | None:
    """Return a constant as one number a channel, or one for all; None where it varies otherwise.

    `rank` counts the axes of what it meets, [batch, channels, space...]; `axis` is the channels'.
    """
    if values.dtype != np.float32 or values.ndim > rank:
        return None
    if values.size == 1:
        return values.astype(np.float64).reshape(1)
    shape = (1,) * (rank - values.ndim) + values.shape
    if shape[axis] != channels or values.size != channels:
        return None
    return values.astype(np.float64).reshape(channels)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a layer, or a Transpose before it, reads what may be folded."""

    reader: onnx.NodeProto
    sizes: tuple[int | None, ...]  # of the tensor's axes
    axis: int  # of the channels
    channels: int


def _folded_before(editor: GraphEditor, layer: onnx.NodeProto) -> bool:
    """Fold the one node that makes what the layer reads, where it is affine by channel."""
    place = _place_before(editor, layer)
    if place is None:
        return False
    maker = editor.makers[place.reader.input[0]]
    change = _change_before(editor, maker, place)
    if change is None or not _taken_in(editor, layer, change, place.channels):
        return False
    place.reader.input[0] = next(name for name in maker.input if name not in editor.constants)
    maker.Clear()
    editor.index()
    return True


def _place_before(editor: GraphEditor, layer: onnx.NodeProto) -> _Place | None:
    """Return where an affine node stands before a layer; None where none does, or others read it.

    A Transpose may stand between: images come with their channels last.
    """
    weight = editor.value(layer.input[1])
    if weight.dtype != np.float32 or weight.ndim < 2:
        return None
    channels, axis = _channels_read(layer, weight)
    reader, tensor = layer, layer.input[0]
    maker = editor.makers.get(tensor)
    if maker is not None and maker.op_type == "Transpose" and editor.only_reader(tensor):
        perm = attributes(maker).get("perm")
        if not isinstance(perm, list):
            return None
        axis, reader, tensor = int(perm[axis]), maker, maker.input[0]
        maker = editor.makers.get(tensor)
    if maker is None or maker.op_type not in _AFFINE or editor.only_reader(tensor) is None:
        return None
    sizes = known_sizes(editor.graph, tensor)
    if sizes is None:
        return None
    return _Place(reader, sizes, axis % len(sizes), channels)


def _channels_read(layer: onnx.NodeProto, weight: NDArray[np.generic]) -> tuple[int, int]:
    """Return how many channels a layer reads, and their axis."""
    options = attributes(layer)
    if layer.op_type == "Conv":
        return int(weight.shape[1]) * int(str(options.get("group", 1))), 1
    if layer.op_type == "Gemm" and options.get("transB", 0):
        return int(weight.shape[1]), -1
    return int(weight.shape[-2 if layer.op_type == "MatMul" else 0]), (
        1 if layer.op_type == "ConvTranspose" else -1
    )


def _change_before(editor: GraphEditor, maker: onnx.NodeProto, place: _Place) -> AffineMap | None:
    """Return what a node does to each channel; None where it does other things, or more.

    It may also make the tensor larger, when a constant has sizes that the tensor lacks.
    """
    if maker.op_type == "BatchNormalization":
        return _normalization(editor, maker) if place.axis == 1 else None
    constants = [name for name in maker.input if name in editor.constants]
    if len(constants) != 1 or len(maker.input) != 2:
        return None
    source = next(name for name in maker.input if name not in editor.constants)
    value = editor.value(constants[0])
    values = _by_channel(value, place.channels, len(place.sizes), place.axis)
    before = known_sizes(editor.graph, source)
    if values is None or before is None or len(before) != len(place.sizes):
        return None
    if value.size > 1 and before[place.axis] != place.channels:
        return None
    return _arithmetic(maker, values, first=maker.input[0] == constants[0])


def _arithmetic(node: onnx.NodeProto, values: Channels, *, first: bool) -> AffineMap | None:
    """Return what a sum or product with constants is; `first` says that the constant is."""
    one, zero = np.ones(1), np.zeros(1)
    match node.op_type:
        case "Mul":
            return AffineMap(values, zero)
        case "Div":
            return None if first or not values.all() else AffineMap(1 / values, zero)
        case "Sub" if first:
            return AffineMap(-one, values)
        case _:
            return AffineMap(one, values * _SUMS[node.op_type])


def _taken_in(editor: GraphEditor, layer: onnx.NodeProto, change: AffineMap, channels: int) -> bool:
    """Multiply the factors into a layer's weight, and what the shift comes to into its bias."""
    scale, shift = (np.broadcast_to(part, channels) for part in (change.scale, change.shift))
    sizes = np.abs(scale)
    even = bool(sizes.all()) and float(sizes.max()) <= WIDEST * float(sizes.min())
    if not (even and np.isfinite(scale).all() and np.isfinite(shift).all()):
        return False
    weight = editor.value(layer.input[1])
    if shift.any() and not _add_shift(editor, layer, weight, shift):
        return False
    scaled = (weight.astype(np.float64) * _along_inputs(layer, weight, scale)).astype(np.float32)
    layer.input[1] = editor.changed(layer.input[1], scaled)
    return True


def _add_shift(
    editor: GraphEditor, layer: onnx.NodeProto, weight: NDArray[np.generic], shift: Channels
) -> bool:
    """Add to a layer's bias what its weight makes of a shift; False where that is not exact."""
    outputs = _channels(layer, weight)
    summed = weight.astype(np.float64) * _along_inputs(layer, weight, shift)
    if layer.op_type == "Conv":
        bias = None if _pads(layer) else _bias(editor, layer, outputs)
        added = summed.reshape(outputs, -1).sum(1)
    elif layer.op_type == "Gemm":
        bias = _bias(editor, layer, outputs)
        added = summed.sum(1 if attributes(layer).get("transB", 0) else 0)
    else:
        return False  # a MatMul has no bias, and at its borders ConvTranspose sums fewer terms
    if bias is None:
        return False
    _set_bias(editor, layer, (bias + added).astype(np.float32))
    return True


def _pads(layer: onnx.NodeProto) -> bool:
    """Return whether a convolution reads zeros beyond the borders."""
    options = attributes(layer)
    pads = options.get("pads", [])
    automatic = options.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    return automatic or (isinstance(pads, list) and any(pads))


def _along_inputs(
    layer: onnx.NodeProto, weight: NDArray[np.generic], values: Channels
) -> NDArray[np.float64]:
    """Return one number a channel that is read, in a shape in which it meets the weight's."""
    options = attributes(layer)
    rest = [1] * (weight.ndim - 2)
    if layer.op_type == "Conv":
        groups = int(str(options.get("group", 1)))
        by_group = values.reshape(groups, weight.shape[1])
        return np.repeat(by_group, weight.shape[0] // groups, 0).reshape(*weight.shape[:2], *rest)
    if layer.op_type == "Gemm" and options.get("transB", 0):
        return values.reshape(1, -1)
    return values.reshape(-1, 1, *rest)
