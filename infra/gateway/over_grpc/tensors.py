"""Tensors and parameters of gRPC's messages, from and to arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from numpy.typing import NDArray

from infra.errors import BadInput
from infra.gateway.endpoint import Answered
from infra.gateway.over_grpc.messages import message
from infra.gateway.wire.datatypes import (
    BYTES,
    MOST_DIMENSIONS,
    MOST_TEXTS,
    datatype_of,
    from_bytes,
    from_json,
    to_bytes,
)
from infra.gateway.wire.extensions import require_known

_CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype -> the field that holds its elements; of others, only raw bytes can be sent."""


def tensors_of(request: Any) -> dict[str, NDArray[Any]]:
    """Return a request's inputs; all of them lie in `raw_input_contents`, or none does.

    Raises:
        BadInput: An input is not one, and why.
    """
    raw, inputs = request.raw_input_contents, request.inputs
    if not inputs:
        raise BadInput("the request has no inputs: a list of tensors with name, shape and datatype")
    if raw and len(raw) != len(inputs):
        raise BadInput(f"there are {len(raw)} raw contents for {len(inputs)} inputs")
    tensors: dict[str, NDArray[Any]] = {}
    for place, tensor in enumerate(inputs):
        if tensor.name in tensors:
            raise BadInput(f"the input {tensor.name} is given twice")
        shape = list(tensor.shape)
        if len(shape) > MOST_DIMENSIONS or not all(0 <= size < 2**31 for size in shape):
            raise BadInput(
                f"the input {tensor.name} has no shape: at most {MOST_DIMENSIONS} whole numbers "
                "from 0 on"
            )
        require_known(f"input {tensor.name}", tensor.parameters)
        if raw:
            _require_none(tensor)
            values = from_bytes(tensor.name, tensor.datatype, shape, bytes(raw[place]))
        else:
            values = _from_contents(tensor, shape)
        tensors[tensor.name] = values
    return tensors


def wanted_of(request: Any) -> list[str]:
    """Return the names of the outputs that a request wants; none: all.

    Raises:
        BadInput: One is wanted in a way that is not offered.
    """
    for output in request.outputs:
        require_known(f"output {output.name}", output.parameters)
    return [output.name for output in request.outputs]


def parameters_of(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as plain values; those without one are left out."""
    chosen = {name: entry.WhichOneof("parameter_choice") for name, entry in entries.items()}
    return {name: getattr(entries[name], field) for name, field in chosen.items() if field}


def response_of(answered: Answered, id: str, wanted: Sequence[str]) -> Any:
    """Return the message of an answer, its tensors as raw bytes.

    Raises:
        BadInput: An output is wanted that the model has not.
    """
    release, destination = answered.release, answered.destination
    names = list(dict.fromkeys(wanted)) or list(answered.outputs)
    unknown = next((name for name in names if name not in answered.outputs), None)
    if unknown is not None:
        raise BadInput(f"there is no output {unknown}: the model has {', '.join(answered.outputs)}")
    response = message("ModelInferResponse")(
        model_name=release.model, model_version=release.version, id=id
    )
    told = {"release": release.digest, "tier": destination.tier, "routed": destination.why}
    for name, value in told.items():
        if value:
            response.parameters[name].string_param = value
    for name in names:
        values = answered.outputs[name]
        response.outputs.add(
            name=name, datatype=datatype_of(values.dtype), shape=list(values.shape)
        )
        response.raw_output_contents.append(to_bytes(values))
    return response


def _require_none(tensor: Any, but: str = "") -> None:
    """Raise `BadInput` for typed contents other than those of one field."""
    other = next((field.name for field, _ in tensor.contents.ListFields() if field.name != but), "")
    if other:
        raise BadInput(
            f"the input {tensor.name} is of {tensor.datatype or 'no datatype'}, and has "
            f"{other} beside: its elements come once"
        )


def _from_contents(tensor: Any, shape: list[int]) -> NDArray[Any]:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise BadInput(
            f"the input {tensor.name} is of {tensor.datatype or 'no datatype'}: send its bytes in "
            "raw_input_contents"
        )
    _require_none(tensor, field)
    data = getattr(tensor.contents, field)
    if len(data) != prod(shape):
        raise BadInput(
            f"the input {tensor.name} has {len(data)} elements, but shape {shape} needs "
            f"{prod(shape)}"
        )
    if tensor.datatype != BYTES:
        return from_json(tensor.name, tensor.datatype, shape, data)
    if len(data) > MOST_TEXTS:
        raise BadInput(f"the input {tensor.name} has {len(data)} texts: send {MOST_TEXTS} at most")
    try:
        texts = [item.decode() for item in data]
    except UnicodeDecodeError:
        raise BadInput(f"the input {tensor.name} holds bytes that are no UTF-8 text") from None
    return from_json(tensor.name, tensor.datatype, shape, texts)
