"""A whole graph in FP16 or BF16, strongly typed: casts stand at the borders and nowhere else.

Inputs and outputs keep their type. A node stays in float32 where the shorter format cannot hold
what it reads, makes or adds up: masks of -1e9, sums of squares, positions, what calibration saw
beyond the format's range. One cast stands where a tensor meets readers of the other type.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from infra.errors import BadInput
from tasks.graphs.canonical.editing import body_reads
from tasks.graphs.weights import constant_values, constants_for
from tasks.numerics.formats import NumberFormat

NOTES = "requant.float32"
"""Key of the metadata that say which nodes stay in float32, and why."""
_TYPES = {NumberFormat.FP16: TensorProto.FLOAT16, NumberFormat.BF16: TensorProto.BFLOAT16}
_ARRAYS = {NumberFormat.FP16: np.float16, NumberFormat.BF16: ml_dtypes.bfloat16}
_KINDS = {NumberFormat.FP16: "tensor(float16)", NumberFormat.BF16: "tensor(bfloat16)"}
_LARGEST = {NumberFormat.FP16: 65504.0, NumberFormat.BF16: 3.3895e38}
MARGIN = 2.0
"""By how much live traffic may exceed what calibration saw."""
_DIVISIBLE = 2.0**-14
"""The smallest scale whose reciprocal FP16 holds, with all bits of the scale."""
_SCALE_ERROR = 2.0**-8
"""Of a weight's scale in the shorter format: what rounding to INT8 itself costs."""
_BESIDE_THE_LARGEST = 2.0**-14
"""Of the layer's largest scale: what a nearly dead channel's scale may be off by."""
_SUMS = (
    "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceLogSum",
    "ReduceLogSumExp", "CumSum", "Pow", "Exp", "ReduceMean",
)  # fmt: skip
"""Operators that add up or raise: they compute in float32."""
_ANGLES = ("Cos", "Sin", "Tan")
"""Of positions, whose last bits are what is asked for."""
_BOUNDING = (
    "Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Tanh", "Erf", "Clip", "Cos", "Sin", "Sqrt",
    "Log", "LayerNormalization", "RMSNormalization", "InstanceNormalization",
    "GroupNormalization", "LpNormalization", "Softsign", "Reciprocal",
)  # fmt: skip
"""Operators whose result is small whatever they read."""
_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_ROUNDING = "requant"
"""Domain of the functions that round in blocks: they compute in float32, and make nothing large."""
_BODIES = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_COUNTS = (TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64)


def shortened(
    model: onnx.ModelProto, format: NumberFormat, largest: Mapping[str, float]
) -> onnx.ModelProto:
    """Return the graph in a shorter float; what must not be stays in float32 and is noted in it.

    Args:
        model: A float32 graph, quantized or not, of opset 19 or later where it is.
        format: FP16 or BF16.
        largest: Tensor -> largest magnitude that calibration saw.

    Raises:
        BadInput: A tensor's type does not follow from the graph.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _store_constants(copy.graph)
    types = _float_types(copy)
    reasons = _Float32Nodes(copy, format, types, largest).reasons()
    _ShortWriter(copy, format, types, set(reasons)).rewrite()
    del copy.graph.value_info[:]
    _note(copy, reasons)
    return copy


def float32_notes(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return a sentence for each reason why nodes of a shortened graph stay in float32."""
    reasons = float32_nodes(model)
    counts = Counter(reasons.values())
    first = {reason: node for node, reason in reversed([*reasons.items()])}
    return tuple(
        f"{count} node{'s' if count > 1 else ''} in float32, such as {first[reason]}: {reason}"
        for reason, count in counts.items()
    )


def float32_nodes(model: onnx.ModelProto) -> Mapping[str, str]:
    """Return node -> why it stays in float32, of a shortened graph; none of any other."""
    stored = next((item.value for item in model.metadata_props if item.key == NOTES), "{}")
    reasons: dict[str, str] = json.loads(stored)
    return reasons


def in_type_of(scale: TensorProto, stored: TensorProto) -> TensorProto:
    """Return an activation's new scale in the type of the stored one, never too small for it."""
    if scale.data_type == stored.data_type or stored.data_type not in _TYPES.values():
        return scale
    format = next(name for name, kind in _TYPES.items() if kind == stored.data_type)
    value = np.maximum(constant_values(scale), np.float32(_DIVISIBLE))
    return numpy_helper.from_array(np.asarray(value.astype(_ARRAYS[format])), scale.name)


def _note(model: onnx.ModelProto, reasons: Mapping[str, str]) -> None:
    kinds = {node.name: node.op_type for node in model.graph.node}
    told = {name: why for name, why in reasons.items() if kinds.get(name) not in _QUANTIZERS}
    model.metadata_props.add(key=NOTES, value=json.dumps(told))


def _store_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes of floats into initializers, which are converted like weights."""
    kept = []
    for node in graph.node:
        value = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            graph.initializer.add().CopyFrom(value)
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)


def _float_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return tensor -> element type, of every tensor; raises `BadInput` where one is unknown."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {
        item.name: item.type.tensor_type.elem_type
        for item in (*graph.input, *graph.value_info, *graph.output)
    }
    types |= {item.name: item.data_type for item in graph.initializer}
    for node in graph.node:
        for name in node.output:
            if name and not types.get(name):
                raise BadInput(
                    f"the type of {name}, which {node.name} ({node.op_type}) makes, does not "
                    "follow from the graph: keep high_precision at fp32"
                )
    return types


@dataclass(slots=True)
class _Float32Nodes:
    """Goes over a graph forward, and says which nodes stay in float32 and why."""

    model: onnx.ModelProto
    format: NumberFormat
    types: Mapping[str, int]
    largest: Mapping[str, float]
    risky: set[str] = field(default_factory=set)  # tensors that the format may not hold

    def reasons(self) -> dict[str, str]:
        """Return node -> why it stays."""
        constants = {item.name: item for item in self.model.graph.initializer}
        inner = _captured(self.model.graph)
        reasons = {
            node.name: "a branch or a loop reads it"
            for node in self.model.graph.node
            if inner.intersection(node.output)
        }
        for node in self.model.graph.node:
            why = self._why(node, constants)
            if why:
                reasons[node.name] = why
                self._spread(node)
        return self._with_partners(reasons)

    def _why(self, node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> str:
        if not any(
            self.types.get(name) == TensorProto.FLOAT for name in (*node.input, *node.output)
        ):
            return ""
        return (
            self._by_range(node) or self._by_operator(node) or self._by_constants(node, constants)
        )

    def _by_range(self, node: onnx.NodeProto) -> str:
        limit = _LARGEST[self.format] / MARGIN
        if any(self.largest.get(name, 0.0) > limit for name in (*node.input, *node.output)):
            return f"calibration saw values beyond {limit:g} there"
        if node.op_type not in _QUANTIZERS and self.risky.intersection(node.input):
            return f"it reads what {self.format} may not hold"
        return ""

    def _by_operator(self, node: onnx.NodeProto) -> str:
        if any(item.type in _BODIES for item in node.attribute):
            return "branches and loops stay as they are"
        if not _takes(node, _KINDS[self.format], self.types, self.model):
            return f"{node.op_type} has no form in {self.format}"
        if node.op_type in _SUMS or (node.op_type == "Mul" and len(set(node.input)) == 1):
            return "sums and powers outgrow short floats"
        if node.op_type in _ANGLES or (
            node.op_type == "Cast" and self.types.get(node.input[0]) in _COUNTS
        ):
            return "positions and counts need all their bits"
        return ""

    def _by_constants(self, node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> str:
        items = {name: constants[name] for name in node.input if name in constants}
        if node.op_type in _QUANTIZERS:
            scale = items.get(node.input[1])
            fits = scale is None or self._holds_scale(scale, node.op_type)
            return "" if fits else f"a scale is too small for {self.format}"
        for item in items.values():
            if item.data_type == TensorProto.FLOAT and not self._holds(item):
                return f"a constant of it does not fit {self.format}"
        return ""

    def _holds(self, item: TensorProto) -> bool:
        """Return whether a constant keeps its meaning, as infinity does."""
        values = constant_values(item)
        finite = values[np.isfinite(values)]
        if float(np.abs(finite).max(initial=0.0)) > _LARGEST[self.format]:
            return False
        if values.size > 1 or not finite.size or not finite.any():
            return True
        short = finite.astype(_ARRAYS[self.format]).astype(np.float32)
        return bool(np.abs(short - finite).max() <= 0.01 * np.abs(finite).max())

    def _holds_scale(self, item: TensorProto, op: str) -> bool:
        values = constant_values(item).astype(np.float32)
        short = values.astype(_ARRAYS[self.format]).astype(np.float32)
        if (
            op == "QuantizeLinear"
            and self.format is NumberFormat.FP16
            and values.min() < _DIVISIBLE
        ):
            return False
        tolerated = _SCALE_ERROR * values + _BESIDE_THE_LARGEST * values.max()
        return bool((np.abs(short - values) <= tolerated).all())

    def _spread(self, node: onnx.NodeProto) -> None:
        """Remember what a node that stays makes, where that may be large itself."""
        follows = node.op_type in ("Div", "ReduceMean")  # it is as large as its first input
        small = node.input[0] not in self.risky if follows else node.op_type in _BOUNDING
        if node.op_type in _QUANTIZERS or node.domain == _ROUNDING or small:
            return
        limit = _LARGEST[self.format] / MARGIN
        self.risky.update(
            name
            for name in node.output
            if self.types.get(name) == TensorProto.FLOAT and self.largest.get(name, np.inf) > limit
        )

    def _with_partners(self, reasons: dict[str, str]) -> dict[str, str]:
        """Keep quantizers and the products between them in one type: a cast would part them."""
        graph = self.model.graph
        makers = {name: node for node in graph.node for name in node.output}
        groups: list[tuple[str, ...]] = [
            (node.name, *_quantizers_of(node, makers))
            for node in graph.node
            if node.op_type in _PRODUCTS
        ]
        groups += [
            (node.name, makers[node.input[0]].name)
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in makers
        ]
        while True:
            partners = [
                (name, next(reasons[member] for member in group if member in reasons))
                for group in groups
                if reasons.keys() & set(group)
                for name in group
                if name not in reasons
            ]
            if not partners:
                return reasons
            reasons |= dict(partners)


def _quantizers_of(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> Iterator[str]:
    for name in node.input:
        if name in makers and makers[name].op_type == "DequantizeLinear":
            yield makers[name].name


def _takes(
    node: onnx.NodeProto, kind: str, types: Mapping[str, int], model: onnx.ModelProto
) -> bool:
    """Return whether an operator's floating-point results may be of a kind."""
    if node.op_type in ("ConstantOfShape", "RandomNormal", "RandomUniform", "EyeLike", "Range"):
        return False
    allowed = _allowed(node, model)
    if allowed is None:
        return False
    return all(
        kind in kinds
        for name, kinds in zip(node.output, allowed[1], strict=True)
        if types.get(name) == TensorProto.FLOAT
    )


Allowed = tuple[list[Sequence[str]], list[Sequence[str]]]


def _allowed(node: onnx.NodeProto, model: onnx.ModelProto) -> Allowed | None:
    """Return the types that each input and output of a node may have; None of an unknown one."""
    domains = {"" if item.domain == "ai.onnx" else item.domain: item for item in model.opset_import}
    domain = "" if node.domain == "ai.onnx" else node.domain
    opset = domains[domain].version if domain in domains else 0
    if not onnx.defs.has(node.op_type, opset, domain):
        return None
    schema = onnx.defs.get_schema(node.op_type, opset, domain)
    constraints = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}

    def types(
        parameters: Sequence[onnx.defs.OpSchema.FormalParameter], count: int
    ) -> list[Sequence[str]]:
        last = len(parameters) - 1
        names = [parameters[min(place, last)].type_str for place in range(count)]
        return [constraints.get(name, [name]) for name in names]

    return types(schema.inputs, len(node.input)), types(schema.outputs, len(node.output))


class _ShortWriter:
    """Gives every tensor its type, and puts one cast where a reader wants the other."""

    def __init__(
        self,
        model: onnx.ModelProto,
        format: NumberFormat,
        types: Mapping[str, int],
        kept: set[str],
    ) -> None:
        self._model, self._graph = model, model.graph
        self._format, self._short = format, _TYPES[format]
        self._types, self._kept = types, kept
        self._constants = {item.name: item for item in model.graph.initializer}
        self._stored: dict[str, NDArray[np.generic]] = {}
        self._is_short: dict[str, bool] = {}  # of tensors that nodes make
        self._cast: dict[tuple[str, bool], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._scaled = _alike_scaled(self._graph, kept)
        self._names = {*types, *(node.name for node in self._graph.node)}

    def rewrite(self) -> None:
        """Rewrite the graph in place."""
        for node in self._graph.node:
            short = node.name not in self._kept
            if short and node.name in self._scaled:
                scale = self._shorter(node.input[1])
                least = np.finfo(np.float16).smallest_subnormal
                self._stored[node.input[1]] = np.maximum(scale, scale.dtype.type(least))
            self._read(node, short)
            self._nodes.append(node)
            self._make(node, short)
        self._restore_outputs()
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        self._replace_constants()

    def _read(self, node: onnx.NodeProto, short: bool) -> None:
        """Let a node read its floats in its own type, or in the one that the operator wants."""
        allowed = _allowed(node, self._model)
        for place, name in enumerate(node.input):
            if node.name in self._scaled and place == 1:
                continue
            if not name or self._types.get(name) != TensorProto.FLOAT:
                continue
            takes = allowed is not None and _KINDS[self._format] in allowed[0][place]
            if node.op_type == "Cast":
                continue  # it reads whatever there is
            node.input[place] = self._in_type(name, short and takes)

    def _in_type(self, name: str, short: bool) -> str:
        if name in self._constants:
            return self._constant(name) if short else name
        if self._is_short.get(name, False) == short:
            return name
        if (name, short) not in self._cast:
            cast = self._fresh(f"{name}.{self._format if short else 'float'}")
            self._cast[name, short] = cast
            to = self._short if short else TensorProto.FLOAT
            self._nodes.append(helper.make_node("Cast", [name], [cast], f"{cast}.cast", to=to))
        return self._cast[name, short]

    def _constant(self, name: str) -> str:
        """Return the name of the constant in the short format."""
        if (name, True) not in self._cast:
            self._cast[name, True] = self._fresh(f"{name}.{self._format}")
            self._stored[self._cast[name, True]] = self._shorter(name)
        return self._cast[name, True]

    def _shorter(self, name: str) -> NDArray[np.generic]:
        values = constant_values(self._constants[name])
        short: NDArray[np.generic] = values.astype(_ARRAYS[self._format])
        return short

    def _make(self, node: onnx.NodeProto, short: bool) -> None:
        if (
            node.op_type == "Cast"
            and self._types.get(node.output[0]) == TensorProto.FLOAT
            and short
        ):
            for item in node.attribute:
                if item.name == "to":
                    item.i = self._short
        for name in node.output:
            if self._types.get(name) == TensorProto.FLOAT:
                self._is_short[name] = short

    def _restore_outputs(self) -> None:
        """Give the graph's outputs back the type that they had."""
        for item in self._graph.output:
            if self._is_short.get(item.name, False):
                short = self._fresh(f"{item.name}.{self._format}")
                _rename(self._nodes, item.name, short)
                self._nodes.append(
                    helper.make_node(
                        "Cast", [short], [item.name], f"{item.name}.uncast", to=TensorProto.FLOAT
                    )
                )

    def _replace_constants(self) -> None:
        """Store the short constants, and drop those that nobody reads any more."""
        read = {name for node in self._graph.node for name in node.input}
        read |= {item.name for item in self._graph.output} | _captured(self._graph)
        kept = [
            item
            for item in self._graph.initializer
            if item.name in read and item.name not in self._stored
        ]
        constant = constants_for(self._model)
        kept += [constant(values, name) for name, values in self._stored.items()]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _fresh(self, wanted: str) -> str:
        while wanted in self._names:
            wanted += "_"
        self._names.add(wanted)
        return wanted


def _captured(graph: onnx.GraphProto) -> set[str]:
    """Return what branches and loops read from around them."""
    return {name for node in graph.node for name in body_reads(node)}


def _alike_scaled(graph: onnx.GraphProto, kept: set[str]) -> set[str]:
    """Return quantizers whose constant scale is read in one type alone: it keeps its name."""
    constants = {item.name for item in graph.initializer}
    readers: dict[str, set[bool]] = {}
    for node in graph.node:
        if node.op_type in _QUANTIZERS:
            readers.setdefault(node.input[1], set()).add(node.name in kept)
    return {
        node.name
        for node in graph.node
        if node.op_type in _QUANTIZERS
        and node.input[1] in constants
        and len(readers[node.input[1]]) == 1
    }


def _rename(nodes: Sequence[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
