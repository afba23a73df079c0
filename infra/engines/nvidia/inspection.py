"""What TensorRT tells of an engine: its parsed network anywhere, its kernels on a device.

The engine inspector tells of the kernels. Its JSON, built with `ProfilingVerbosity.DETAILED`, is
`{"Layers": [...], ...}`. Of a tensor, TensorRT 10 writes one text,
`"Format/Datatype": "Row major Int8 format"`; TensorRT 11 writes `"Format"` and `"Datatype"`.
The engine's inputs and outputs are `"Bindings"`, a list of names, in 10, and `"I/O Tensors"`,
a list of objects, in 11.

Builders print the same layers, as text, at the end of a build with such details; TensorRT-RTX does
so without a device. `printed_layers` brings that text into the inspector's shape.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from infra.engines.port import UNKNOWN, Kernel
from infra.errors import BadInput

_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_PRINTED = re.compile(
    r"^Name: (?P<Name>.*?), LayerType: (?P<LayerType>.*?), Inputs: (?P<Inputs>.*?), "
    r"(?:Constants: (?P<Constants>.*?), )?Outputs: (?P<Outputs>.*?), TacticName: (?P<Tactic>.*?), "
    r"StreamId: .*?Metadata: ?(?P<Metadata>.*)$"
)
"""One layer of an engine, as a builder prints it."""
_DATATYPE = re.compile(r"Datatype: ([^,}]*)")
_MOVES = ("Reformat", "NoOp", "Constant", "Shuffle", "shape_call")
"""Kinds of layers that multiply nothing."""
_POINTWISE = "kgen"
_PRODUCT = re.compile(r"Fc|Gemm|Conv|Dot|MatMul|Bmm")
"""What the name of a generated kernel has where it multiplies matrices."""
_TACTICS = (
    ("FP4", re.compile(r"e2m1|(?:^|_)(?:nv|mx)?fp?4(?:_|$)")),
    ("INT8", re.compile(r"(?:^|_)(?:[isu]8|int8|imma)")),
    ("FP8", re.compile(r"e[45]m[23]|(?:^|_)(?:fp8|qgmma)")),
    ("FLOAT", re.compile(r"gemm|fprop|conv")),  # a product whose name has neither of the above
)
"""What a kernel's name says that it multiplies.

INT8 kernels name the floats that they return as well.
"""


def describe(trt: Any, network: Any, printed: Sequence[str] = ()) -> bytes:
    """Describe the parsed network, layer by layer, with the precision of what each returns.

    Fusion is the builder's: `kernels` are what it printed of the engine, where it did. Strong
    typing already fixes the precision of every tensor here.
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
    kernels = [layer for text in printed for layer in printed_layers(text)]
    document = {"version": str(trt.__version__), "layers": layers, "kernels": kernels}
    return json.dumps(document).encode()


def printed_layers(text: str) -> list[dict[str, Any]]:
    """Parse what a builder printed of an engine, into layers as the inspector's JSON has them."""
    matches = (_PRINTED.match(line) for line in text.splitlines())
    return [
        {
            "Name": match["Name"],
            "LayerType": match["LayerType"],
            **{
                part: [{"Datatype": name} for name in _DATATYPE.findall(match[part] or "")]
                for part in ("Inputs", "Constants", "Outputs")
            },
            "TacticName": match["Tactic"],
            "Metadata": match["Metadata"],
        }
        for match in matches
        if match
    ]


def kernels_of(layers: bytes) -> tuple[Kernel, ...] | None:
    """Return the kernels that `describe` kept; None where the builder printed none."""
    kernels = json.loads(layers).get("kernels") or ()
    return tuple(_kernel(layer) for layer in kernels) or None


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
    tactic = str(layer.get("TacticName", ""))
    if kind in _MOVES or (kind == _POINTWISE and not _PRODUCT.search(tactic)):
        return ""
    tactic = tactic.lower()
    for precision, pattern in _TACTICS:
        if pattern.search(tactic):
            return precision
    operands = [*layer.get("Inputs", ()), *layer.get("Constants", ()), *_weights(layer)]
    return _by_operands([_type(tensor) for tensor in operands])


def _by_operands(types: Sequence[str]) -> str:
    """Tell the precision of a product by its operands.

    A product reads two operands of its precision; with one alone, the other may have been restored
    to floats.
    """
    for precision in ("FP4", "INT8", "FP8"):  # of FP4, scales are FP8
        if types.count(precision) >= 2:
            return precision
    narrow = {"INT8", "FP8", "INT4", "FP4"} & set(types)
    return UNKNOWN if narrow or not types else "FLOAT"


def _weights(layer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    weights = layer.get("Weights")
    return [{"Datatype": weights.get("Type", "")}] if isinstance(weights, Mapping) else []


def _type(tensor: Mapping[str, Any]) -> str:
    """Return INT8, FP8, INT4, FP4, or FLOAT for everything longer."""
    datatype = (
        tensor.get("Format/Datatype") or tensor.get("Datatype") or tensor.get("DataType") or ""
    )
    named = re.search(r"int8|fp8|int4|fp4", str(datatype).lower())
    return named.group(0).upper() if named else "FLOAT"
