"""OpenAI-style logs: batch files (OpenAI, `vllm run-batch`) or whole exchanges.

The lines of batch files are joined by `custom_id`. Source:
https://platform.openai.com/docs/api-reference/batch/request-input
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from tasks.traffic.formats.conversation import has_reply, render
from tasks.traffic.formats.documents import Document, read_documents
from tasks.traffic.formats.inference import CONTEXT
from tasks.traffic.formats.pairs import Exchange, Joiner, joining
from tasks.traffic.formats.raw import Again, Bad, Raw, Source, failing, ready

_TIMES = ("time", "timestamp", "created_at", "created")


def read_chats(source: Source) -> Iterator[Raw]:
    """Read the requests that were answered; the text is the conversation up to the reply."""
    with joining() as joiner:
        for document in read_documents(source):
            try:
                pair = _pair(document, joiner)
            except (Bad, Again) as error:
                yield failing(document.number, document.excerpt, error)
            else:
                yield from _requests(pair, source.first_at) if pair else ()
        yield from joiner.alone()


def _pair(document: Document, joiner: Joiner) -> Exchange | None:
    line, number = document.fields(), document.number
    id = line.get("custom_id") or line.get("request_id") or line.get("id")
    body, response = _asked(line), line.get("response")
    if (isinstance(response, Mapping) and body is None) or line.get("error"):
        return joiner.add("response", _named(id), document, line)
    if body is None:
        raise Bad("it holds neither a request (messages, input, prompt) nor a response")
    if "choices" in line:
        response = {
            name: line[name] for name in ("choices", "created", "id", "model") if name in line
        }
    if response is None and has_reply(body.get("messages")):
        response = {}
    if response is None:
        return joiner.add("request", _named(id), document, line)
    if not isinstance(response, Mapping):
        raise Bad("its response is not an object")
    return Exchange(
        _named(id or response.get("id")), number, document.excerpt, line, {"response": response}
    )


def _asked(line: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the body of a request, wherever the line keeps it."""
    for body in (line.get("body"), line.get("request"), line):
        if isinstance(body, Mapping) and any(
            name in body for name in ("messages", "input", "prompt")
        ):
            return body
    return None


def _named(id: object) -> str:
    if not isinstance(id, str) or not id:
        raise Bad("it has no custom_id or id to join request and response by")
    return id


def _requests(pair: Exchange, first_at: datetime | None) -> Iterator[Raw]:
    try:
        body, answer = _asked(pair.request) or {}, _answer(pair.response)
        texts = _texts(body)
        shared = _shared(pair.request, body, answer, first_at)
    except Bad as bad:
        yield failing(pair.number, pair.excerpt, bad)
        return
    for place, text in enumerate(texts):
        name = pair.id if len(texts) == 1 else f"{pair.id}/{place}"
        yield ready(pair.number, pair.excerpt, {**shared, "text": text, "request_id": name})


def _answer(line: Mapping[str, Any]) -> Mapping[str, Any]:
    response = line.get("response")
    response = response if isinstance(response, Mapping) else {}
    status = response.get("status_code", 200)
    if line.get("error") or status != 200:
        raise Bad(f"the server answered with status {status} or an error: nothing was served")
    body = response.get("body", response)
    if not isinstance(body, Mapping) or body.get("error"):
        raise Bad("the server answered with an error: nothing was served")
    return body


def _texts(body: Mapping[str, Any]) -> list[object]:
    if "messages" in body:
        return [render(body["messages"])]
    inputs = body.get("input", body.get("prompt"))
    if isinstance(inputs, list) and inputs and not all(isinstance(item, str) for item in inputs):
        raise Bad("its input is token ids, not text: log in front of the tokenizer")
    return inputs if isinstance(inputs, list) and inputs else [inputs]


def _shared(
    line: Mapping[str, Any],
    body: Mapping[str, Any],
    answer: Mapping[str, Any],
    first_at: datetime | None,
) -> dict[str, object]:
    fields = {**_mapping(body.get("metadata")), **_mapping(line.get("metadata")), **line}
    tenant = fields.get("tenant") or body.get("safety_identifier") or body.get("user")
    context = {name: fields.get(name) for name in CONTEXT} | {"tenant": tenant}
    times = [
        item
        for holder in (line, answer)
        for name in _TIMES
        if (item := holder.get(name)) is not None
    ]
    if not times and first_at is None:
        raise Bad(
            "it has no time: say when the first record was taken, --first-at (first_at of a source)"
        )
    return {
        **{name: value for name, value in context.items() if isinstance(value, str) and value},
        "time": _time(times[0]) if times else first_at,
        "latency_ms": line.get("latency_ms"),
        "model_version": answer.get("model") or body.get("model"),
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _time(value: object) -> object:
    """Return seconds since 1970 as a time; text is read by the checks."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise Bad("time lies outside the calendar") from None
