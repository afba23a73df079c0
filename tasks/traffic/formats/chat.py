"""OpenAI-style logs: batch files (OpenAI, `vllm run-batch`, Anthropic) or whole exchanges.

The lines of batch files are joined by `custom_id`. Sources:
https://platform.openai.com/docs/api-reference/batch/request-input,
https://docs.anthropic.com/en/docs/build-with-claude/batch-processing
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from tasks.traffic.formats.bodies.conversation import has_reply
from tasks.traffic.formats.bodies.prompts import asks, context_of, texts_of
from tasks.traffic.formats.documents import Document, read_documents
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
    body, response = _asked(line), _replied(line)
    if (response is not None and body is None) or line.get("error"):
        return joiner.add("response", _named(id), document, line)
    if body is None:
        raise Bad("it holds neither a request (messages, input, prompt) nor a response")
    if response is None and has_reply(body.get("messages")):
        response = {}
    if response is None:
        return joiner.add("request", _named(id), document, line)
    if not isinstance(response, Mapping):
        raise Bad("its response is neither an object nor text nor a list of chunks")
    return Exchange(
        _named(id or response.get("id")), number, document.excerpt, line, {"response": response}
    )


def _asked(line: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the body of a request, wherever the line keeps it."""
    for body in (line.get("body"), line.get("request"), line.get("params"), line):
        body = _object(body)
        if isinstance(body, Mapping) and asks(body):
            return body
    return None


def _replied(line: Mapping[str, Any]) -> object:
    """Return the response of a line, wherever the line keeps it; None where it has none."""
    for name in ("response", "result"):
        if (response := _object(line.get(name))) is not None:
            # A text is the reply itself, a list the chunks of a stream.
            return {"text": response} if isinstance(response, (str, list)) else response
    if "choices" in line:
        return {name: line[name] for name in ("choices", "created", "id", "model") if name in line}
    return None


def _object(value: object) -> object:
    """Return what a text of JSON says: some logs keep bodies as they went over the wire."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _named(id: object) -> str:
    if type(id) is int:
        return str(id)
    if not isinstance(id, str) or not id:
        raise Bad("it has no custom_id or id to join request and response by")
    return id


def _requests(pair: Exchange, first_at: datetime | None) -> Iterator[Raw]:
    try:
        body, answer = _asked(pair.request) or {}, _answer(pair.response)
        texts = texts_of(
            body,
            turns=_is_conversation(pair.request, answer),
            answer=answer or None,
        )
        shared = _shared(pair.request, body, answer, first_at)
    except Bad as bad:
        yield failing(pair.number, pair.excerpt, bad)
        return
    for place, text in enumerate(texts):
        name = pair.id if len(texts) == 1 else f"{pair.id}/{place}"
        yield ready(pair.number, pair.excerpt, {**shared, "text": text, "request_id": name})


def _is_conversation(line: Mapping[str, Any], answer: Mapping[str, Any]) -> bool:
    """Tell whether OpenAI's Responses was asked, where a plain `input` is a user's turn."""
    url = line.get("url")
    return answer.get("object") == "response" or (
        isinstance(url, str) and url.partition("?")[0].endswith("/responses")
    )


def _answer(line: Mapping[str, Any]) -> Mapping[str, Any]:
    response = _replied(line)
    response = response if isinstance(response, Mapping) else {}
    status, outcome = response.get("status_code", 200), response.get("type")
    if line.get("error") or status != 200:
        raise Bad(f"the server answered with status {status} or an error: nothing was served")
    if outcome in ("errored", "canceled", "expired"):  # of Anthropic's batches
        raise Bad(f"the request was {outcome}: nothing was served")
    body = response.get("body", response.get("message") if outcome == "succeeded" else response)
    if not isinstance(body, Mapping) or body.get("error"):
        raise Bad("the server answered with an error: nothing was served")
    return body


def _shared(
    line: Mapping[str, Any],
    body: Mapping[str, Any],
    answer: Mapping[str, Any],
    first_at: datetime | None,
) -> dict[str, object]:
    context = context_of(body, line.get("metadata"), line)
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
        **{name: value for name, value in context.items() if isinstance(value, (str, int))},
        "time": _time(times[0]) if times else first_at,
        "latency_ms": line.get("latency_ms"),
        "model_version": answer.get("model") or body.get("model"),
    }


def _time(value: object) -> object:
    """Return seconds since 1970 as a time; text is read by the checks."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise Bad("time lies outside the calendar: seconds since 1970 are read") from None
