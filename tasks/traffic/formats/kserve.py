"""KServe's inference logger: one event per request and per response, joined by their id.

Read are CloudEvents in JSON (a sink that stores what it receives), and what the logger itself
writes to a bucket: one or a batch of records with `Id`, `ReqType` and the body as base64 in
`Bytes`, without a time. Source:
https://kserve.github.io/website/docs/model-serving/predictive-inference/logger
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from tasks.traffic.formats.documents import Document, read_documents
from tasks.traffic.formats.inference import CONTEXT, rows_of_body
from tasks.traffic.formats.pairs import Exchange, Side, joining
from tasks.traffic.formats.raw import Again, Bad, Raw, Source, failing, ready

_SIDES: Mapping[str, Side] = {
    "org.kubeflow.serving.inference.request": "request",
    "org.kubeflow.serving.inference.response": "response",
}
NO_TIME = (
    "it has no time, as KServe's own bucket writer gives none: "
    "say when the first record was taken, --first-at "
    "(first_at of a source)"
)


@dataclass(frozen=True, slots=True)
class _Event:
    id: str
    side: Side
    value: Mapping[str, Any]  # time, body, headers, name


def read_kserve(source: Source) -> Iterator[Raw]:
    """Read the requests that were answered; what has no partner fails with the reason."""
    with joining() as joiner:
        for document in read_documents(source):
            try:
                event = _event(document)
                pair = joiner.add(event.side, event.id, document, event.value)
            except (Bad, Again) as error:
                yield failing(document.number, document.excerpt, error)
            else:
                yield from _requests(pair, source) if pair else ()
        yield from joiner.alone()


def _event(document: Document) -> _Event:
    # The bucket writer's names begin with a capital in some releases.
    fields = {name[:1].lower() + name[1:]: value for name, value in document.fields().items()}
    kind = str(fields.get("type") or fields.get("reqType"))
    if kind not in _SIDES:
        raise Bad(f"its type is {kind!r}: only {' and '.join(_SIDES)} are read")
    id = fields.get("id")
    if not isinstance(id, str) or not id:
        raise Bad("it has no id to join request and response by")
    headers = fields.get("metadata")
    value = {
        "time": fields.get("time"),
        "body": _body(fields),
        "headers": _parsed(headers) if isinstance(headers, str) else headers,
    }
    return _Event(id, _SIDES[kind], value)


def _body(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    packed = fields.get("bytes") or fields.get("data_base64")
    body = fields.get("data")
    if isinstance(packed, str):
        try:
            body = _parsed(base64.b64decode(packed, validate=True).decode())
        except (binascii.Error, ValueError):
            raise Bad("its body is not JSON in base64: turn binary tensor data off") from None
    elif isinstance(body, str):
        body = _parsed(body)
    if not isinstance(body, Mapping):
        raise Bad("its body is not a JSON object")
    return body


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Bad("it holds text where JSON belongs") from None


def _requests(pair: Exchange, source: Source) -> Iterator[Raw]:
    try:
        body, reply = pair.request["body"], _served(pair.response["body"])
        rows = rows_of_body(body, source.task, source.shape)
        shared = _shared(pair, body, reply, source.first_at)
        outcomes = _outcomes(reply, len(rows))
    except Bad as bad:
        yield failing(pair.number, pair.excerpt, bad)
        return
    for place, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
        name = pair.id if len(rows) == 1 else f"{pair.id}/{place}"
        yield ready(
            pair.number, pair.excerpt, {**shared, "decision": outcome, **row, "request_id": name}
        )


def _served(answered: Mapping[str, Any]) -> Mapping[str, Any]:
    if "error" in answered:
        raise Bad("the model answered with an error")
    return answered


def _shared(
    pair: Exchange, asked: Mapping[str, Any], answered: Mapping[str, Any], first_at: datetime | None
) -> dict[str, object]:
    began, ended = _time(pair.request), _time(pair.response)
    time = began or first_at
    if time is None:
        raise Bad(NO_TIME)
    headers = {
        str(name).lower(): value for name, value in (pair.request.get("headers") or {}).items()
    }
    parameters = asked.get("parameters") if isinstance(asked.get("parameters"), Mapping) else {}
    context = {
        name: (parameters or {}).get(name) or _first(headers.get(f"x-{name}")) for name in CONTEXT
    }
    version = answered.get("model_version")
    return {
        **{name: value for name, value in context.items() if value},
        "time": time,
        "latency_ms": (ended - began).total_seconds() * 1000
        if began and ended and ended >= began
        else None,
        "model_version": str(version) if version else None,
    }


def _time(side: Mapping[str, Any]) -> datetime | None:
    """Return the event's own time, or the date in the request's headers."""
    headers = {str(name).lower(): value for name, value in (side.get("headers") or {}).items()}
    try:
        if isinstance(side.get("time"), str):
            moment = datetime.fromisoformat(side["time"])
        elif (date := _first(headers.get("date"))) is not None:
            moment = parsedate_to_datetime(str(date))
        else:
            return None
    except ValueError:
        raise Bad("time is not ISO 8601, such as 2026-01-31T03:00:00Z") from None
    if moment.tzinfo is None:
        raise Bad(
            "time has no time zone: end it with Z or an offset, because guessing moves windows"
        )
    return moment


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else value


def _outcomes(answered: Mapping[str, Any], count: int) -> list[str | None]:
    """Return what was predicted for each input, where that is one word or number (v1)."""
    predictions = answered.get("predictions")
    if not isinstance(predictions, list) or len(predictions) != count:
        return [None] * count
    return [
        str(prediction)
        if isinstance(prediction, (str, int)) and 0 < len(str(prediction)) <= 256
        else None
        for prediction in predictions
    ]
