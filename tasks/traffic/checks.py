"""What makes one record from outside a request, or refuses it with the reason.

Every field is checked here, once.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from math import isfinite, prod
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from infra.errors import BadInput
from tasks.payloads import RECORD, all_finite, parse_record
from tasks.preprocess.prepare import Preparation
from tasks.records import UNKNOWN, Payload, Record, Request, Tensor
from tasks.specs.tensors import PayloadShape, RecordLayout
from tasks.specs.traits import TRAITS, Task
from tasks.traffic.detection import domain_of, language_of
from tasks.traffic.formats.bodies.inference import as_dtype
from tasks.traffic.formats.bodies.printouts import printed
from tasks.traffic.formats.raw import Bad

LONGEST_TEXT = 1_000_000  # bytes of UTF-8
LONGEST_LABEL = 16_000_000
"""Characters: a label may be a transcript, or a mask as a data URI."""
Refusal = Callable[[Payload], str | None]
"""Says why a model cannot read a payload that its rules allow; None where it can."""


def _aware(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(_timed(value))
        except ValueError as error:
            raise PydanticCustomError(
                "time", "is not ISO 8601, such as 2026-01-31T03:00:00Z"
            ) from error
    if not isinstance(value, datetime):
        raise PydanticCustomError("time", "is not ISO 8601 text, such as 2026-01-31T03:00:00Z")
    if value.tzinfo is None:
        value = _placed(value, (info.context or {}).get("zone"))
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise PydanticCustomError("time", "lies outside the calendar") from error


def _timed(text: str) -> str:
    """Return a time with its zone as an offset; raises `ValueError` for a day without a time."""
    if len(text.strip()) <= len("2026-01-31"):
        raise ValueError(text)
    return f"{text[:-4]}+00:00" if text.endswith(" UTC") else text


def _placed(value: datetime, zone: tzinfo | None) -> datetime:
    """Return a time of a clock that stood in a zone; never guessed where that leaves two."""
    if zone is None:
        raise PydanticCustomError(
            "time",
            "has no time zone: end it with Z or an offset, or say where its clock stood with "
            "--timezone (timezone of a source), because guessing moves windows",
        )
    first, second = (value.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() != second.utcoffset():
        raise PydanticCustomError(
            "time", "lies in an hour that its clock skips or repeats: end it with an offset"
        )
    return first


def _named(value: object) -> object:
    """Return a number as the text that it is a name by; pandas makes 3.0 of 3 beside nothing."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return value
    if value != value:  # NaN is how a table of numbers says that there is none
        return None
    whole = isinstance(value, int) or (
        (value.is_finite() if isinstance(value, Decimal) else isfinite(value))
        and value == int(value)
    )
    if isinstance(value, Decimal):
        value = value.normalize()  # a column's scale is no part of the number
    return str(int(value)) if whole else f"{value:f}" if isinstance(value, Decimal) else str(value)


def _labelled(value: object) -> object:
    """Return lists and objects, such as boxes, as the JSON that a label is."""
    if not isinstance(value, (list, Mapping)):
        return _named(value)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise PydanticCustomError(
            "label", "holds what JSON has not, such as NaN or bytes"
        ) from error


def _or(default: str) -> BeforeValidator:
    return BeforeValidator(
        lambda value: default if (name := _named(value)) is None or name == "" else name
    )


_Name = Annotated[str, Field(min_length=1, max_length=256), BeforeValidator(_named)]
_OptionalName = Annotated[
    Annotated[str, Field(min_length=1, max_length=256)] | None, BeforeValidator(_named)
]


class _Record(BaseModel):
    """The plain fields of a request.

    Unknown fields are ignored, so that producers may send more.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    request_id: _Name
    time: Annotated[datetime, BeforeValidator(_aware)]
    tenant: Annotated[_Name, _or("default")] = "default"
    domain: Annotated[_Name, _or(UNKNOWN)] = UNKNOWN
    language: Annotated[_Name, _or(UNKNOWN)] = UNKNOWN
    latency_ms: FiniteFloat | None = None
    model_version: _OptionalName = None
    decision: _OptionalName = None
    label: Annotated[
        Annotated[str, Field(min_length=1, max_length=LONGEST_LABEL)] | None,
        BeforeValidator(_labelled),
    ] = None


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What one model's requests must hold."""

    task: Task
    shape: PayloadShape
    latest: datetime  # the latest believable time
    zone: tzinfo | None = None  # of times without one; None: such times are refused
    refusal: Refusal | None = None

    def request(self, record: Mapping[str, object]) -> Request:
        """Return the request that a record describes; raises `Bad`."""
        payload = self._payload(record)
        if self.refusal is not None and (reason := self.refusal(payload)) is not None:
            raise Bad(reason)
        try:
            plain = _Record.model_validate(record, context={"zone": self.zone})
        except ValidationError as error:
            raise Bad(
                "; ".join(_sentence(detail) for detail in error.errors(include_input=False))
            ) from None
        if plain.time > self.latest:
            raise Bad("time lies in the future: check the clock of the host that recorded it")
        fields = dict(plain)
        for name, value in fields.items():
            if isinstance(value, str):
                _require_utf8(name, value)
        if self.task is Task.CAUSAL_LM and isinstance(payload, str):
            fields |= _detected(payload, plain)
        return Request(payload=payload, **fields)

    def _payload(self, record: Mapping[str, object]) -> Payload:
        if isinstance(self.shape, RecordLayout):
            return _raw(record, self.shape) or _record(record, self.shape)
        return _text(record) if TRAITS[self.task].reads == "text" else _tensor(record, self.shape)


def _detected(text: str, plain: _Record) -> dict[str, str]:
    """Return what nobody said of a chat, as far as its text tells."""
    detected = {}
    if plain.language == UNKNOWN:
        detected["language"] = language_of(text)
    if plain.domain == UNKNOWN:
        detected["domain"] = domain_of(text)
    return detected


def _sentence(error: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{name} is missing"
    message = str(error["msg"])
    return (
        f"{name} {message}"
        if error["type"] in ("time", "label")
        else f"{name}: {message[:1].lower()}{message[1:]}"
    )


def _text(record: Mapping[str, object]) -> Payload:
    text = record.get("text")
    if text is None:
        raise Bad("text is missing: this model reads text")
    if not isinstance(text, str):
        raise Bad(f"text is {kind_of(text)}, not text")
    if not text.strip():
        raise Bad("text is empty")
    _require_sent("text", text)
    size = len(_require_utf8("text", text))
    if size > LONGEST_TEXT:
        raise Bad(f"text has {size} bytes: at most {LONGEST_TEXT} are read")
    return text


def _require_sent(name: str, text: str) -> None:
    """Refuse what a program prints of a value, which nobody sent."""
    if (kind := printed(text)) is not None:
        raise Bad(f"{name} is the printout of {kind}, not what was sent: log the value itself")


def _require_utf8(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Bad(f"{name} holds half a surrogate pair, which is not valid Unicode") from None


def _raw(record: Mapping[str, object], layout: RecordLayout) -> Payload | None:
    """Read what a user sent, where the spec says how it becomes tensors; None of tensors.

    A text is `text`; `image` and `audio` are files in base64.
    """
    rules = layout.preprocess
    if rules is None:
        return None
    if rules.reads == "text":
        return _text(record) if "text" in record else None
    data = record.get(rules.reads)
    tensors = record.get("tensors")
    if data is None and isinstance(tensors, Mapping) and set(tensors) == {rules.reads}:
        data = tensors[rules.reads]
    if data is None:
        return _stored_raw(record, rules.reads)
    if isinstance(data, Mapping):
        data = data.get("b64")
    payload: Record = {rules.reads: np.frombuffer(_unbase64(data), np.uint8)}
    return _readable(payload, layout)


def _stored_raw(record: Mapping[str, object], kind: str) -> Payload | None:
    packed = record.get("tensor")
    if not isinstance(packed, bytes) or record.get("dtype") != RECORD:
        return None
    try:
        stored = parse_record(packed)
    except BadInput as error:
        raise Bad(str(error)) from None
    return stored if set(stored) == {kind} else None


def _readable(payload: Record, layout: RecordLayout) -> Record:
    """Return a file that the steps can read; anything else would break a whole window later."""
    try:
        layout.check(Preparation(layout, None).record(payload))
    except BadInput as error:
        raise Bad(str(error)) from None
    return payload


def _record(record: Mapping[str, object], layout: RecordLayout) -> Record:
    """Read the named tensors of a request: arrays, nested lists, or base64 with a shape."""
    named, packed = record.get("tensors"), record.get("tensor")
    try:
        if isinstance(packed, bytes) and record.get("dtype") == RECORD:
            tensors = parse_record(packed)
        else:
            tensors = _named_arrays(packed if named is None else named, layout)
        layout.check(tensors)
    except BadInput as error:
        raise Bad(str(error)) from None
    if not all_finite(tensors):
        raise Bad("the input holds NaN or infinite values")
    return tensors


def _named_arrays(named: object, layout: RecordLayout) -> Record:
    if named is None:
        raise Bad(
            f"tensors is missing: this model reads {', '.join(sorted(layout.tensors))}; give "
            "tensors, an object of nested lists by input"
        )
    if not isinstance(named, Mapping):
        if len(layout.tensors) > 1:
            raise Bad(f"it has one tensor: this model reads {', '.join(sorted(layout.tensors))}")
        named = {next(iter(layout.tensors)): named}
    return {str(name): _named_array(str(name), value, layout) for name, value in named.items()}


def _named_array(name: str, value: object, layout: RecordLayout) -> NDArray[np.generic]:
    wanted = layout.tensors.get(name)
    if isinstance(value, np.ndarray) or wanted is None:
        return np.asarray(value)
    try:
        if isinstance(value, Mapping):
            return _unpacked(value, wanted.dtype)
        return as_dtype(value, wanted.dtype)
    except ValueError as error:
        raise Bad(f"the input {name} {error}") from None


def _unpacked(value: Mapping[str, object], dtype: str) -> NDArray[np.generic]:
    """Read {"b64": ..., "shape": [...]}, little-endian and in C order."""
    sizes = value.get("shape")
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("has no shape of whole numbers")
    raw, wanted = _unbase64(value.get("b64")), np.dtype(dtype).newbyteorder("<")
    if len(raw) != wanted.itemsize * prod(sizes):
        raise ValueError(f"has {len(raw)} bytes, which shape {sizes} of {dtype} does not need")
    return np.frombuffer(raw, wanted).reshape(sizes).astype(dtype)


def _tensor(record: Mapping[str, object], shape: tuple[int, ...] | None) -> Tensor:
    nested, packed = record.get("tensor"), record.get("tensor_b64")
    if packed is not None:
        nested = _unbase64(packed)
    if nested is None:
        raise Bad(
            "tensor is missing: this model reads tensors; give tensor (nested lists) or tensor_b64"
        )
    tensor = (
        _unpack(nested, record.get("shape"), shape)
        if isinstance(nested, bytes)
        else _shaped(_from_lists(nested), record.get("shape"), shape)
    )
    if shape is not None and not _fits(tensor.shape, shape):
        raise Bad(f"tensor has shape {list(tensor.shape)}: this model reads {_spelled(shape)}")
    if not tensor.size:
        raise Bad("tensor is empty")
    if not np.isfinite(tensor).all():
        raise Bad("tensor holds NaN or infinite values")
    return tensor


def _fits(actual: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Return whether the shapes agree; -1 takes any length."""
    return len(actual) == len(wanted) and all(
        want in (-1, size) for size, want in zip(actual, wanted, strict=True)
    )


def _spelled(shape: tuple[int, ...]) -> str:
    return str(list(shape)) if -1 not in shape else "one row of any length"


def _unbase64(packed: object) -> bytes:
    if not isinstance(packed, str):
        raise Bad(f"tensor_b64 is {kind_of(packed)}, not text")
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise Bad("tensor_b64 is not base64") from None


def _unpack(raw: bytes, declared: object, shape: tuple[int, ...] | None) -> Tensor:
    """Read little-endian float32 in C order; the record's own shape comes before the model's."""
    own = (len(raw) // 4,) if shape == (-1,) else shape
    sizes = own if declared is None else declared
    if not isinstance(sizes, (list, tuple)) or not all(
        type(size) is int and size > 0 for size in sizes
    ):
        raise Bad("shape is missing or not a list of positive integers")
    count = 1
    for size in sizes:
        count *= size
    if len(raw) != 4 * count:
        raise Bad(
            f"tensor has {len(raw)} bytes, but shape {list(sizes)} of float32 needs {4 * count}"
        )
    return np.frombuffer(raw, dtype="<f4").reshape(sizes).astype(np.float32)


def _shaped(tensor: Tensor, declared: object, shape: tuple[int, ...] | None) -> Tensor:
    """Return a list of all numbers in the shape that the record, or else the model, tells."""
    sizes = shape if declared is None else declared
    if tensor.ndim != 1 or not isinstance(sizes, (list, tuple)):
        return tensor
    if not all(type(size) is int and size > 0 for size in sizes) or prod(sizes) != tensor.size:
        return tensor
    return tensor.reshape(sizes)


def _from_lists(nested: object) -> Tensor:
    if isinstance(nested, str):
        _require_sent("tensor", nested)
    try:
        values: NDArray[Any] = np.asarray(nested)
    except (ValueError, OverflowError, RecursionError):
        raise Bad("tensor is ragged: its lists differ in length") from None
    if not isinstance(nested, list) or values.dtype.kind not in "iuf":
        raise Bad("tensor is not nested lists of numbers")
    with np.errstate(
        over="ignore"
    ):  # what float32 cannot hold becomes infinite, and is refused as such
        return values.astype(np.float32)


def kind_of(value: object) -> str:
    """Say in words what a JSON value is."""
    return {
        "bool": "a boolean",
        "int": "a number",
        "float": "a number",
        "list": "a list",
        "dict": "an object",
    }.get(type(value).__name__, type(value).__name__)
