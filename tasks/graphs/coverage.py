"""How much of a graph can be quantized, and why the rest cannot: every weight has a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx

from tasks.graphs.canonical.editing import bodies
from tasks.graphs.multiply_accumulates import PRODUCTS, layer_products, products_beside
from tasks.graphs.sites import Site

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
_JOINED = (
    "Attention",
    "DecoderMaskedSelfAttention",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "LongformerAttention",
    "MultiHeadAttention",
    "NhwcConv",
    "PackedAttention",
)
_REASONS: Mapping[str, str] = {
    "Gather": "an embedding table: recipes that store tables in fewer bits take it",
    "ConvTranspose": "transposed convolutions stay in floating point",
    "LSTM": "only ONNX Runtime multiplies an LSTM in INT8: see by target",
    "GRU": "no target multiplies a GRU in fewer bits",
    "RNN": "no target multiplies a recurrent layer of this kind in fewer bits",
    "Einsum": "an Einsum has no one axis of outputs: export it as MatMul",
    "MatMul": "its weight is a stack of matrices, or the other factor's axes are not known",
    "Gemm": "its bias or factors are computed: they cannot be taken into the weight",
    "Conv": "its weight is no float32 constant",
    "BatchNormalization": "it stands behind no convolution that could take it in",
    **dict.fromkeys(_JOINED, "its products are inside an operator that only ONNX Runtime has"),
    "Identity": "it is an output of the model, the same for every request",
    "If": "layers in branches stay in floating point: export the one that is taken",
    "Loop": "layers in loops stay in floating point",
    "Scan": "layers in loops stay in floating point",
}


_NORMALIZING = ("Add", "Sub", "Mul", "Div", "BatchNormalization")
_PASSED = ("Cast", "Identity", "Transpose")
_NORMALIZED = (
    "it scales or shifts an input and stays: zeros are padded behind it, several nodes read what "
    "it makes, or its factors lie far apart"
)
_DOUBLE = "its weight is float64: export the model in float32"


@dataclass(frozen=True, slots=True)
class LeftLayer:
    """One node whose weights no recipe quantizes."""

    node: str
    op: str
    weights: int  # numbers
    reason: str

    @property
    def sentence(self) -> str:
        """Say it in one line."""
        return f"{self.node} ({self.op}, {self.weights:,} weights): {self.reason}"


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a recipe that quantizes every site takes of a graph."""

    layers: int
    weights: float  # fraction of all float numbers that the graph stores, 0..1
    # Of the multiply-accumulates of all layers, on shapes as they are common; None: not known.
    products: float | None
    left: tuple[LeftLayer, ...]  # largest first

    @property
    def sentences(self) -> tuple[str, ...]:
        """Say it, and one line for each node that is left."""
        products = "" if self.products is None else f", {self.products:.1%} of the products"
        layers = "1 layer" if self.layers == 1 else f"{self.layers} layers"
        whole = f"{layers}, {self.weights:.1%} of the weights{products}"
        return (
            whole,
            *(item.sentence for item in self.left),
        )


def coverage(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    shapes: Mapping[str, Sequence[int]],
    recurrent: Sequence[str] = (),
) -> Coverage:
    """Return what can be quantized of a graph, and each node with weights that cannot.

    Args:
        model: The full-precision graph.
        sites: Where it can be quantized.
        shapes: Input name -> common shape.
        recurrent: LSTM nodes that are taken, too.
    """
    sizes = _stored(model)
    inside = {node.name: _weights_inside(node) for node in model.graph.node}
    layers = [layer for site in sites for layer in site.layers]
    known = {layer.node for layer in layers}
    # A weight that another node reads too, such as a loop, stays in floats beside the layer's.
    shared = {name for node in model.graph.node if node.name not in known for name in node.input}
    taken = {layer.weight for layer in layers} - shared
    lstms = [node for node in model.graph.node if node.name in recurrent]
    taken |= {name for node in lstms for name in node.input[1:3]}
    known |= set(recurrent)
    total = sum(sizes.values()) + sum(inside.values())
    left = _left(model, sizes, taken, known)
    left += [
        LeftLayer(node.name, node.op_type, inside[node.name], _reason(node.op_type))
        for node in model.graph.node
        if inside[node.name]
    ]
    return Coverage(
        len(layers) + len(lstms),
        sum(sizes[name] for name in taken) / total if total else 0.0,
        None if any(inside.values()) else _products(model, sites, shapes, recurrent),
        tuple(sorted(left, key=lambda item: -item.weights)),
    )


def stored_shorter(model: onnx.ModelProto, written: onnx.ModelProto) -> float:
    """Return the fraction of a graph's float32 numbers that a rewritten form of it has no more.

    They are in fewer bits there. All that the graph stores counts, biases and tables too, and what
    branches and loops store.
    """
    sizes = _stored(model)
    kept = _stored(written)
    inside = sum(_weights_inside(node) for node in model.graph.node)
    left = sum(min(size, kept.get(name, 0)) for name, size in sizes.items())
    total = sum(sizes.values()) + inside
    return 1 - (left + inside) / total if total else 0.0


def _stored(model: onnx.ModelProto) -> dict[str, int]:
    return {
        item.name: prod(item.dims) for item in model.graph.initializer if item.data_type in _FLOATS
    }


def _weights_inside(node: onnx.NodeProto) -> int:
    """Return how many float numbers the bodies of a node store."""
    own: int = sum(
        prod(item.dims)
        for body in bodies(node)
        for item in (*body.initializer, *_values(body))
        if item.data_type in _FLOATS and len(item.dims) > 1
    )
    deeper = (_weights_inside(inner) for body in bodies(node) for inner in body.node)
    return own + sum(deeper)


def _values(body: onnx.GraphProto) -> list[onnx.TensorProto]:
    return [item.t for node in body.node if node.op_type == "Constant" for item in node.attribute]


def _reason(op_type: str) -> str:
    return _REASONS.get(op_type, f"{op_type} is no product with a weight")


def _products(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    shapes: Mapping[str, Sequence[int]],
    recurrent: Sequence[str],
) -> float | None:
    """Return the sites' fraction of the products with weights; None where one cannot be counted."""
    counted = layer_products(model, sites, shapes)
    if any(layer.node not in counted for site in sites for layer in site.layers):
        return None
    others = products_beside(model, sites, shapes)
    known = {name: count for name, count in others.items() if count is not None}
    total = sum(counted.values()) + sum(known.values())
    taken = sum(counted.values()) + sum(known.get(name, 0) for name in recurrent)
    return taken / total if total and len(known) == len(others) else None


def _left(
    model: onnx.ModelProto, sizes: Mapping[str, int], taken: set[str], layers: set[str]
) -> list[LeftLayer]:
    """Return nodes that read float constants of two axes or more, none of them a layer's weight.

    An axis of one is none, but in a product: a bias [1, channels, 1] is no weight.
    """
    axes = {item.name: len(item.dims) for item in model.graph.initializer}
    broad = {item.name: sum(size > 1 for size in item.dims) for item in model.graph.initializer}
    double = {
        item.name
        for item in model.graph.initializer
        if item.data_type == onnx.TensorProto.DOUBLE and len(item.dims) > 1
    }
    left = []
    normalizing = _normalizing(model, set(sizes))
    for node in model.graph.node:
        weights = sum(
            sizes[name]
            for name in set(node.input)
            if name in sizes
            and name not in taken
            and (axes if node.op_type in PRODUCTS else broad)[name] > 1
            and sizes[name] > 1
        )
        if node.name in normalizing:
            numbers = sum(sizes[name] for name in set(node.input) if name in sizes)
            left.append(LeftLayer(node.name, node.op_type, numbers, _NORMALIZED))
        elif weights and node.name not in layers:
            why = _DOUBLE if double & set(node.input) else _reason(node.op_type)
            left.append(LeftLayer(node.name, node.op_type, weights, why))
    return left


def _normalizing(model: onnx.ModelProto, constants: set[str]) -> set[str]:
    """Return nodes that scale or shift an input of the graph by constants, before any layer."""
    plain = {item.name for item in model.graph.input}
    names = set()
    for node in model.graph.node:
        dynamic = [name for name in node.input if name and name not in constants]
        if len(dynamic) != 1 or dynamic[0] not in plain:
            continue
        if node.op_type in _PASSED:
            plain.update(node.output)
        elif node.op_type in _NORMALIZING and len(node.input) > 1:
            names.add(node.name)
            plain.update(node.output)
    return names
