"""Operators that ONNX Runtime's optimizer joins, spelled in ONNX's own again.

A weight inside a joined operator is a layer's like any other. What is not spelled here stays: it
runs on ONNX Runtime alone, in floating point. The operators are those of ONNX Runtime's
ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt

import numpy as np
import onnx
from onnx import helper

from tasks.graphs.canonical.editing import GraphEditor, attributes

DOMAIN = "com.microsoft"
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}
"""That a FusedConv or FusedGemm may end with, and what its parameters are called."""
_MASKED = -10000.0
"""What Attention adds where its mask is 0, unless mask_filter_value says otherwise."""


class _Spelling:
    """The nodes that stand in one node's place."""

    def __init__(self, editor: GraphEditor, node: onnx.NodeProto) -> None:
        self.editor, self.node, self.nodes = editor, node, list[onnx.NodeProto]()
        self.options = attributes(node)
        self._stem = (node.name or node.output[0]).replace(".", "_")

    def given(self, place: int) -> str:
        """Return an input's name; empty where it is left out."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def wanted(self, place: int) -> bool:
        """Return whether somebody reads an output."""
        name = self.node.output[place] if place < len(self.node.output) else ""
        return bool(name) and (name in self.editor.readers or name in self.editor.outputs)

    def number(self, value: float) -> str:
        """Return a float constant."""
        return self.editor.add(f"{self._stem}_number", np.asarray(value, np.float32))

    def sizes(self, *values: int) -> str:
        """Return a constant of whole numbers."""
        return self.editor.add(f"{self._stem}_sizes", np.asarray(values, np.int64))

    def add(self, op_type: str, *inputs: str, **options: object) -> str:
        """Append a node; returns its output."""
        output = self.editor.fresh(f"{self._stem}_{op_type}")
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **options))
        return output

    def end(self, *results: str) -> list[onnx.NodeProto]:
        """Return all nodes; the results stand for the first outputs, empty ones for none."""
        for name, result in zip(self.node.output, results, strict=False):
            if name and result:
                self.nodes.append(helper.make_node("Identity", [result], [name]))
        return self.nodes


Spelling = Callable[[_Spelling], list[onnx.NodeProto] | None]


def spell_fused(model: onnx.ModelProto) -> None:
    """Write joined operators as what they compute."""
    editor = GraphEditor(model.graph)
    changes = {}
    for place, node in enumerate(model.graph.node):
        if node.domain == DOMAIN and node.op_type in SPELLINGS:
            nodes = SPELLINGS[node.op_type](_Spelling(editor, node))
            if nodes is not None:
                changes[place] = nodes
    if changes:
        editor.rewrite(changes)


def _activated(new: _Spelling, value: str, parameters: list[float]) -> list[onnx.NodeProto] | None:
    kind = new.options.get("activation", b"")
    name = kind.decode() if isinstance(kind, bytes) else str(kind)
    if not name:
        return new.end(value)
    if name not in _ACTIVATIONS or len(parameters) < len(_ACTIVATIONS[name]):
        return None
    if name == "Clip":
        low, high = (new.number(bound) for bound in parameters[:2])
        return new.end(new.add("Clip", value, low, high))
    options = dict(zip(_ACTIVATIONS[name], parameters, strict=False))
    return new.end(new.add(name, value, **options))


def _convolution(new: _Spelling) -> list[onnx.NodeProto] | None:
    kept = {name: value for name, value in new.options.items() if not name.startswith("activation")}
    value = new.add("Conv", *[name for name in new.node.input[:3] if name], **kept)
    if new.given(3):
        value = new.add("Add", value, new.given(3))
    parameters = new.options.get("activation_params", [])
    return _activated(new, value, [float(item) for item in np.ravel(np.asarray(parameters))])


def _gemm(new: _Spelling) -> list[onnx.NodeProto] | None:
    kept = {name: value for name, value in new.options.items() if not name.startswith("activation")}
    value = new.add("Gemm", *new.node.input, **kept)
    names = ("activation_alpha", "activation_beta")
    return _activated(new, value, [float(str(new.options.get(name, 0.0))) for name in names])


def _gelu(new: _Spelling) -> list[onnx.NodeProto]:
    value = new.given(0)
    if new.given(1):
        value = new.add("Add", value, new.given(1))
    error = new.add("Erf", new.add("Div", value, new.number(sqrt(2.0))))
    half = new.add("Mul", value, new.number(0.5))
    return new.end(new.add("Mul", half, new.add("Add", error, new.number(1.0))))


def _fast_gelu(new: _Spelling) -> list[onnx.NodeProto]:
    value = new.given(0)
    if new.given(1):
        value = new.add("Add", value, new.given(1))
    cube = new.add("Mul", value, new.add("Mul", value, value))
    inner = new.add("Add", value, new.add("Mul", cube, new.number(0.044715)))
    curve = new.add("Tanh", new.add("Mul", inner, new.number(sqrt(2.0 / np.pi))))
    half = new.add("Mul", value, new.number(0.5))
    return new.end(new.add("Mul", half, new.add("Add", curve, new.number(1.0))))


def _quick_gelu(new: _Spelling) -> list[onnx.NodeProto]:
    scaled = new.add("Mul", new.given(0), new.number(float(str(new.options.get("alpha", 1.702)))))
    return new.end(new.add("Mul", new.given(0), new.add("Sigmoid", scaled)))


def _normalised(new: _Spelling, value: str, gain: str, shift: str) -> str:
    epsilon = float(str(new.options.get("epsilon", 1e-12)))
    inputs = [value, gain, shift] if shift else [value, gain]
    return new.add("LayerNormalization", *inputs, axis=-1, epsilon=epsilon)


def _skip_norm(new: _Spelling) -> list[onnx.NodeProto] | None:
    if new.wanted(1) or new.wanted(2):
        return None
    value = new.add("Add", new.given(0), new.given(1))
    if new.given(4):
        value = new.add("Add", value, new.given(4))
    return new.end(_normalised(new, value, new.given(2), new.given(3)), "", "", value)


def _skip_rms_norm(new: _Spelling) -> list[onnx.NodeProto] | None:
    if new.wanted(1) or new.wanted(2):
        return None
    value = new.add("Add", new.given(0), new.given(1))
    if new.given(3):
        value = new.add("Add", value, new.given(3))
    square = new.add("Mul", value, value)
    mean = new.add("ReduceMean", square, axes=[-1], keepdims=1)
    epsilon = new.number(float(str(new.options.get("epsilon", 1e-12))))
    normal = new.add("Div", value, new.add("Sqrt", new.add("Add", mean, epsilon)))
    return new.end(new.add("Mul", normal, new.given(2)), "", "", value)


def _embeddings(new: _Spelling) -> list[onnx.NodeProto] | None:
    ids, segments, words, places, kinds, gain, shift, mask, positions = map(new.given, range(9))
    if new.wanted(1) and not mask:
        return None
    value = new.add("Gather", words, ids)
    if positions:
        place = new.add("Gather", places, positions)
    else:
        length = new.add("Slice", new.add("Shape", ids), new.sizes(1), new.sizes(2))
        place = new.add("Slice", places, new.sizes(0), length, new.sizes(0))
    value = new.add("Add", value, place)
    if segments and kinds:
        value = new.add("Add", value, new.add("Gather", kinds, segments))
    real = new.add("ReduceSum", mask, new.sizes(1), keepdims=0) if new.wanted(1) else ""
    return new.end(_normalised(new, value, gain, shift), real, value)


def _attention(new: _Spelling) -> list[onnx.NodeProto] | None:
    """Spell self-attention with one weight for queries, keys and values [inputs, 3 widths].

    With a mask of 0 and 1 [batch, tokens], or none; without a past or a bias of scores.
    """
    weight, heads = new.editor.constants.get(new.given(1)), int(str(new.options["num_heads"]))
    plain = not any(new.options.get(name) for name in ("unidirectional", "do_rotary"))
    if weight is None or not plain or new.options.get("qkv_hidden_sizes"):
        return None
    if any(map(new.given, range(4, len(new.node.input)))) or new.wanted(1):
        return None
    if new.given(3) and not _is_mask(new):
        return None
    width = weight.dims[1] // 3 // heads
    value = new.add("MatMul", new.given(0), new.given(1))
    if new.given(2):
        value = new.add("Add", value, new.given(2))
    parts = [
        new.add(
            "Slice",
            value,
            new.sizes(part * heads * width),
            new.sizes((part + 1) * heads * width),
            new.sizes(2),
        )
        for part in range(3)
    ]
    split = [new.add("Reshape", part, new.sizes(0, 0, heads, width)) for part in parts]
    query, held = (new.add("Transpose", split[place], perm=[0, 2, 1, 3]) for place in (0, 2))
    key = new.add("Transpose", split[1], perm=[0, 2, 3, 1])
    scale = float(str(new.options.get("scale", 0.0))) or 1 / sqrt(width)
    scores = new.add("Mul", new.add("MatMul", query, key), new.number(scale))
    if new.given(3):
        real = new.add("Cast", new.given(3), to=onnx.TensorProto.FLOAT)
        lost = new.add("Unsqueeze", new.add("Sub", new.number(1.0), real), new.sizes(1, 2))
        low = float(str(new.options.get("mask_filter_value", _MASKED)))
        scores = new.add("Add", scores, new.add("Mul", lost, new.number(low)))
    mixed = new.add("MatMul", new.add("Softmax", scores, axis=-1), held)
    turned = new.add("Transpose", mixed, perm=[0, 2, 1, 3])
    return new.end(new.add("Reshape", turned, new.sizes(0, 0, heads * width)))


def _is_mask(new: _Spelling) -> bool:
    """Return whether the fourth input is known to be [batch, tokens]; others count tokens."""
    ranks = [
        len(value.type.tensor_type.shape.dim)
        for value in (*new.editor.graph.input, *new.editor.graph.value_info)
        if value.name == new.given(3) and value.type.tensor_type.HasField("shape")
    ]
    return ranks == [2]


SPELLINGS: Mapping[str, Spelling] = {
    "FusedConv": _convolution,
    "FusedGemm": _gemm,
    "Gelu": _gelu,
    "BiasGelu": _gelu,
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "EmbedLayerNormalization": _embeddings,
    "Attention": _attention,
}
"""Joined operator -> what spells it; None where it has a form that is left as it is."""
