"""KServe's inference logger: CloudEvents with a request or a response each, joined by their id.

Events stand as one JSON object (structured mode), as headers `ce-*` beside a body (binary mode), or
as the bucket writer's files have them: attributes by other names and the body in `Bytes`, without a
time. Bodies are the inference protocols' (v1, v2 with or without binary data) or OpenAI's. Source:
https://kserve.github.io/website/docs/model-serving/predictive-inference/logger
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from tasks.specs.traits import TRAITS
from tasks.traffic.formats.bodies.binary import filled
from tasks.traffic.formats.bodies.calls import rows_of_call
from tasks.traffic.formats.bodies.inference import CONTEXT, Row, is_name, rows_of_body
from tasks.traffic.formats.bodies.logged import LoggedBody, first
from tasks.traffic.formats.bodies.prompts import asks, context_of, texts_of
from tasks.traffic.formats.documents import Document, read_documents
from tasks.traffic.formats.pairs import Exchange, Side, joining
from tasks.traffic.formats.raw import Again, Bad, Raw, Source, failing, ready

_SIDES: Mapping[str, Side] = {"inference.request": "request", "inference.response": "response"}
_BODIES = ("data", "body", "value")
"""Where a log of events in binary mode keeps the body."""
_CALLS = ("dataframe_split", "dataframe_records", "text_input")
"""Fields of what MLflow's scoring server and Triton's generate endpoint are sent."""
NO_TIME = (
    "it has no time, as KServe's own bucket writer gives none: "
    "say when the first record was taken, --first-at "
    "(first_at of a source)"
)


@dataclass(frozen=True, slots=True)
class _Event:
    id: str
    side: Side
    value: Mapping[str, Any]  # time, headers, body, and of a request the tail in base64


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
    fields = _attributes(document.fields())
    kind = str(fields.get("type") or fields.get("reqType"))
    side = next((side for end, side in _SIDES.items() if kind.endswith(end)), None)
    if side is None:
        raise Bad(f"its type is {kind!r}: only those that end in {' and '.join(_SIDES)} are read")
    id = fields.get("id")
    if not isinstance(id, str) or not id:
        raise Bad("it has no id to join request and response by")
    headers = fields.get("metadata")
    headers = _parsed(headers) if isinstance(headers, str) else headers
    logged = LoggedBody.of(fields, headers if isinstance(headers, Mapping) else {})
    value = {
        "time": fields.get("time"),
        "headers": headers,
        **(logged.request() if side == "request" else logged.response()),
    }
    return _Event(id, side, value)


def _attributes(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an event's attributes, body and headers under the names of structured mode."""
    headers = document.get("headers")
    if isinstance(headers, list):  # as Kafka's clients give them: pairs
        headers = dict(pair for pair in headers if isinstance(pair, list) and len(pair) == 2)
    if isinstance(headers, Mapping):
        named = {str(name).lower().replace("_", "-"): value for name, value in headers.items()}
        event = {
            name.removeprefix("ce-"): first(value)
            for name, value in named.items()
            if name.startswith("ce-")
        }
        if event:
            data = next((document[name] for name in _BODIES if name in document), None)
            packed = document.get("data_base64")
            content = first(named.get("content-type"))
            return {
                "data": data,
                "data_base64": packed,
                "datacontenttype": content,
                **event,
                "metadata": dict(headers),
            }
    # The bucket writer's names begin with a capital in some releases.
    return {name[:1].lower() + name[1:]: value for name, value in document.items()}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Bad("it holds text where JSON belongs") from None


def _requests(pair: Exchange, source: Source) -> Iterator[Raw]:
    try:
        body, reply = pair.request["body"], _served(pair.response["body"])
        rows = _rows(body, base64.b64decode(pair.request["tail"]), reply, source)
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


def _rows(
    body: Mapping[str, Any], tail: bytes, reply: Mapping[str, Any], source: Source
) -> list[Row]:
    inputs = body.get("inputs")
    if any(name in body for name in _CALLS) or isinstance(inputs, str) or _are_values(inputs):
        return rows_of_call(body, source.task, source.shape)
    if "instances" in body or "inputs" in body or not asks(body):
        return rows_of_body(filled(body, tail), source.task, source.shape)
    if TRAITS[source.task].reads != "text":
        raise Bad("the body asks a language model: this model reads tensors")
    answered_responses = reply.get("object") == "response"
    texts = texts_of(body, turns=answered_responses, answer=reply or None)
    return [{"text": text} for text in texts]


def _are_values(inputs: object) -> bool:
    """Tell whether inputs are what a scoring server takes: columns, or a list of values."""
    if isinstance(inputs, list):
        return bool(inputs) and not any(isinstance(item, Mapping) for item in inputs)
    return isinstance(inputs, Mapping)


def _served(answered: Mapping[str, Any]) -> Mapping[str, Any]:
    if answered.get("error"):
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
    told = context_of(asked, parameters)
    context = {name: told.get(name, first(headers.get(f"x-{name}"))) for name in CONTEXT}
    version = answered.get("model_version") or answered.get("model")
    return {
        **{name: value for name, value in context.items() if is_name(value)},
        "time": time,
        "latency_ms": _milliseconds(began, ended),
        "model_version": str(version) if version else None,
    }


def _time(side: Mapping[str, Any]) -> datetime | None:
    """Return the event's own time, or the date in the request's headers."""
    headers = {str(name).lower(): value for name, value in (side.get("headers") or {}).items()}
    try:
        if isinstance(side.get("time"), str):
            moment = datetime.fromisoformat(side["time"])
        elif (date := first(headers.get("date"))) is not None:
            moment = parsedate_to_datetime(str(date))
        else:
            return None
    except ValueError:
        raise Bad("time is not ISO 8601, such as 2026-01-31T03:00:00Z") from None
    return moment


def _milliseconds(began: datetime | None, ended: datetime | None) -> float | None:
    if began is None or ended is None or (began.tzinfo is None) != (ended.tzinfo is None):
        return None
    return (ended - began).total_seconds() * 1000 if ended >= began else None


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
