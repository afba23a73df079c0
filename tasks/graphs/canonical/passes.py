"""The passes in their order, and what each found: an exporter's graph in, the canonical one out."""

from __future__ import annotations

import json

import onnx
from onnx import shape_inference, version_converter

from infra.errors import BadInput
from tasks.graphs.canonical.affine import fold_affine
from tasks.graphs.canonical.constants import (
    fold_constants,
    lift_constants,
    remove_unused,
    take_known_branches,
    without_listed_initializers,
)
from tasks.graphs.canonical.half import is_half, widen
from tasks.graphs.canonical.names import free_names
from tasks.graphs.canonical.products import plain_products

OLDEST_OPSET = 7
"""Before it, operators broadcast by attributes, and BatchNormalization had other outputs."""
PER_CHANNEL_OPSET = 13
"""Q/DQ with one scale a channel begins here."""
RAISED_OPSET = 17
"""What an older graph is raised to: the first with LayerNormalization."""
NOTES = "requant.canonical"
"""Property of the graph."""
QUANTIZED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "MatMulInteger",
        "ConvInteger",
        "MatMulNBits",
        "QGemm",
        "QAttention",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
    }
)
"""Operators of a graph that somebody has quantized already."""


def make_canonical(model: onnx.ModelProto, *, where: str) -> onnx.ModelProto:
    """Return the graph in the canonical form; `notes_of` tells what was changed.

    It computes what the given one computes, in float32: `held` compares them. Weights are
    initializers that their layers read directly, nothing constant is left to be computed, and no
    name is one that Requant makes. Inputs and outputs keep their names.

    Raises:
        BadInput: The graph is quantized already, has an opset before 7 or one that cannot be
            raised, or constants that cannot be computed.
    """
    _require_floats(model, where)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    notes: list[str] = []
    without_listed_initializers(changed)
    changed, raised = _raised(changed, where)
    notes += raised
    if is_half(changed):
        notes.append("its 16-bit floats are read as float32, which is the reference")
        widen(changed)
    lift_constants(changed)
    fold_constants(changed)
    take_known_branches(changed)
    fold_constants(changed)
    plain_products(_with_shapes(changed))
    layers = _count(changed, "BatchNormalization")
    fold_affine(changed)
    if (rest := _count(changed, "BatchNormalization")) < layers:
        notes.append(f"{layers - rest} BatchNormalization nodes are folded into their layers")
    remove_unused(changed)
    free_names(changed)
    del changed.graph.value_info[:]
    if notes:
        onnx.helper.set_model_props(
            changed, {**_properties(changed), NOTES: json.dumps({"version": 1, "notes": notes})}
        )
    return changed


def notes_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return one sentence on each thing that was changed when the graph was made canonical."""
    document = _properties(model).get(NOTES)
    return () if document is None else tuple(json.loads(document)["notes"])


def _properties(model: onnx.ModelProto) -> dict[str, str]:
    return {item.key: item.value for item in model.metadata_props}


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that the graph uses."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)


def _require_floats(model: onnx.ModelProto, where: str) -> None:
    present = sorted({node.op_type for node in model.graph.node} & QUANTIZED)
    if present:
        raise BadInput(
            f"source: {where} is quantized already ({', '.join(present)}): a reference has to be "
            "in floating point, so register the model that it was made from"
        )


def _raised(model: onnx.ModelProto, where: str) -> tuple[onnx.ModelProto, list[str]]:
    opset = opset_of(model)
    if opset >= PER_CHANNEL_OPSET:
        return model, []
    if opset < OLDEST_OPSET:
        raise BadInput(
            f"source: {where} has opset {opset}: export it with opset {OLDEST_OPSET} or later"
        )
    try:
        converted = version_converter.convert_version(model, RAISED_OPSET)
    except Exception as exc:  # the converter's kinds share no base
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise BadInput(
            f"source: {where} has opset {opset} and cannot be raised to {RAISED_OPSET} ({line}): "
            f"export it with opset {PER_CHANNEL_OPSET} or later"
        ) from exc
    converted.ir_version = max(converted.ir_version, 8)
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)  # the converter keeps them not always
    return converted, [f"its opset {opset} is raised to {RAISED_OPSET}"]


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write inferred shapes into the model, as far as they can be inferred."""
    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # shapes help, and nothing depends on them
        return model
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    return model


def _count(model: onnx.ModelProto, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph.node)
