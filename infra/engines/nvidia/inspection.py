"""What TensorRT tells of an engine: its parsed network anywhere, its kernels on a device.

The engine inspector tells of the kernels. Its JSON, built with `ProfilingVerbosity.DETAILED`, is
`{"Layers": [...], ...}`. Of a tensor, TensorRT 10 writes one text,
`"Format/Datatype": "Row major Int8 format"`; TensorRT 11 writes `"Format"` and `"Datatype"`.
The engine's inputs and outputs are `"Bindings"`, a list of names, in 10, and `"I/O Tensors"`,
a list of objects, in 11.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from infra.engines.port import UNKNOWN, Kernel
from infra.errors import BadInput

_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_MOVES = ("Reformat", "NoOp", "Constant", "Shuffle")
"""Kinds of layers that multiply nothing."""
_TACTICS = (
    ("INT8", re.compile(r"(?:^|_)(?:[isu]8|int8|imma)")),
    ("FP8", re.compile(r"e[45]m[23]|(?:^|_)(?:fp8|qgmma)")),
    ("FLOAT", re.compile(r"gemm|fprop|conv")),  # a product whose name has neither of the above
)
"""What a kernel's name says that it multiplies.

INT8 kernels name the floats that they return as well.
"""


def describe(trt: Any, network: Any) -> bytes:
    """Describe the parsed network, layer by layer, with the precision of what each returns.

    Fusion is the builder's and only its inspector tells it, which needs the device; strong typing
    already fixes the precision of every tensor here.
    """
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        precision = "/".join(
            str(layer.get_output(i).dtype).rsplit(".", 1)[-1] for i in range(layer.num_outputs)
        )
        layers.append(
            {"name": layer.name, "type": str(layer.type).rsplit(".", 1)[-1], "precision": precision}
        )
    return json.dumps({"version": str(trt.__version__), "layers": layers}).encode()


def inspect(trt: Any, engine: Any, context: Any) -> bytes:
    """Return the inspector's JSON of a deserialized engine.

    With the context, shapes are those of the last run.
    """
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON)).encode()


def parse_inspection(inspection: bytes) -> tuple[Kernel, ...]:
    """Parse the kernels from an inspector's JSON, TensorRT 10's or 11's.

    Of an engine built without details only names are known, and every precision is UNKNOWN.

    Raises:
        BadInput: The document is anything else.
    """
    try:
        document = json.loads(inspection)
        _ = document["Bindings"] if "Bindings" in document else document["I/O Tensors"]
        return tuple(_kernel(layer) for layer in document["Layers"])
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadInput(
            f"this is not an engine inspector's document ({exc!r}): inspect the engine again"
        ) from exc


def _kernel(layer: str | Mapping[str, Any]) -> Kernel:
    if isinstance(layer, str):
        return Kernel(layer, "", UNKNOWN, frozenset(layer.split(" + ")))
    name, kind = str(layer["Name"]), str(layer.get("LayerType", ""))
    nodes = _NODE.findall(str(layer.get("Metadata", ""))) or name.split(" + ")
    return Kernel(name, kind, _precision(layer, kind), frozenset(nodes))


def _precision(layer: Mapping[str, Any], kind: str) -> str:
    """Return the precision of what a layer multiplies, "" for a move of data.

    The kernel's own name decides where it tells, otherwise what the layer reads.
    """
    if kind in _MOVES:
        return ""
    tactic = str(layer.get("TacticName", "")).lower()
    for precision, pattern in _TACTICS:
        if pattern.search(tactic):
            return precision
    return _by_operands([_type(tensor) for tensor in [*layer.get("Inputs", ()), *_weights(layer)]])


def _by_operands(types: Sequence[str]) -> str:
    """Tell the precision of a product by its operands.

    A product reads two operands of its precision; with one alone, the other may have been restored
    to floats.
    """
    for precision in ("INT8", "FP8"):
        if types.count(precision) >= 2:
            return precision
    narrow = {"INT8", "FP8", "INT4"} & set(types)
    return UNKNOWN if narrow or not types else "FLOAT"


def _weights(layer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    weights = layer.get("Weights")
    return [{"Datatype": weights.get("Type", "")}] if isinstance(weights, Mapping) else []


def _type(tensor: Mapping[str, Any]) -> str:
    """Return INT8, FP8, INT4, or FLOAT for everything longer."""
    datatype = (
        tensor.get("Format/Datatype") or tensor.get("Datatype") or tensor.get("DataType") or ""
    )
    named = re.search(r"int8|fp8|int4", str(datatype).lower())
    return named.group(0).upper() if named else "FLOAT"
