"""The passes in their order, and what each found: an exporter's graph in, the canonical one out."""

from __future__ import annotations

import json

import onnx
from onnx import version_converter

from infra.errors import BadInput
from tasks.graphs.canonical.affine import fold_affine
from tasks.graphs.canonical.bodies import set_bodies_apart
from tasks.graphs.canonical.constants import (
    fold_constants,
    hand_out_constants,
    lift_constants,
    remove_unused,
    take_known_branches,
    without_listed_initializers,
)
from tasks.graphs.canonical.editing import all_nodes
from tasks.graphs.canonical.fused import spell_fused
from tasks.graphs.canonical.half import is_half, widen
from tasks.graphs.canonical.names import free_names
from tasks.graphs.canonical.products import plain_products
from tasks.graphs.canonical.shapes import fold_shapes, with_shapes

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
        "MatMulBnb4",
        "MatMulFpQ4",
        "GatherBlockQuantized",
        "QEmbedLayerNormalization",
        "QMoE",
    }
)
"""Operators of a graph that somebody has quantized already."""
_QUANTIZED_PREFIXES = ("QLinear", "QOrdered")


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
    _spell_domain(changed)
    without_listed_initializers(changed)
    changed, raised = _raised(changed, where)
    notes += raised
    if is_half(changed):
        notes.append("its 16-bit floats are read as float32, which is the reference")
        widen(changed)
    lift_constants(changed)
    _settle(changed, where)
    spell_fused(with_shapes(changed, where))
    fold_constants(changed)
    plain_products(with_shapes(changed, where))
    layers = _count(changed, "BatchNormalization")
    fold_affine(with_shapes(changed, where))
    if (rest := _count(changed, "BatchNormalization")) < layers:
        notes.append(f"{layers - rest} BatchNormalization nodes are folded into their layers")
    remove_unused(changed)
    set_bodies_apart(with_shapes(changed, where))
    remove_unused(changed)
    hand_out_constants(changed)
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
    present = sorted(
        {
            node.op_type
            for node in all_nodes(model.graph)
            if node.op_type in QUANTIZED or node.op_type.startswith(_QUANTIZED_PREFIXES)
        }
    )
    if present:
        raise BadInput(
            f"source: {where} is quantized already ({', '.join(present)}): a reference has to be "
            "in floating point, so register the model that it was made from"
        )


def _spell_domain(model: onnx.ModelProto) -> None:
    """Call ONNX's own operators by the empty domain, which "ai.onnx" is another name of."""
    for node in all_nodes(model.graph):
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    version = opset_of(model)
    others = [(item.domain, item.version) for item in model.opset_import]
    del model.opset_import[:]
    model.opset_import.extend(
        onnx.helper.make_opsetid(domain, number)
        for domain, number in {
            "": version,
            **{domain: number for domain, number in others if domain not in ("", "ai.onnx")},
        }.items()
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


def _settle(model: onnx.ModelProto, where: str) -> None:
    """Compute what is known, and take the branches that follow from it, until nothing is left."""
    fold_constants(model)
    while take_known_branches(model) or fold_shapes(with_shapes(model, where)):
        fold_constants(model)


def _count(model: onnx.ModelProto, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph.node)
