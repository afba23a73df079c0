"""The texts that a request gives a language or an embedding model, out of its body.

Bodies are those of OpenAI's chat completions, Responses, completions and embeddings, and of the
servers that are shaped like them (vLLM, KServe, Anthropic, Ollama, Gemini). What stands beside the
turns is part of what the model reads: instructions, system texts and the tools that it may call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tasks.traffic.formats.bodies.conversation import content_of, transcript, turns_of
from tasks.traffic.formats.bodies.inference import is_name
from tasks.traffic.formats.raw import Bad
from tasks.transcripts import Turn

_ASKS = ("messages", "contents", "input", "prompt")
_INSTRUCTIONS = (
    "instructions",
    "system",
    "system_prompt",
    "system_instruction",
    "systemInstruction",
    "preamble",
)
_LISTS = ("tools", "functions", "documents")
_ELSEWHERE: Mapping[str, str] = {
    "previous_response_id": "its earlier turns are kept by the server",
    "conversation": "its earlier turns are kept by the server",
    "suffix": "the model read a text behind the gap, too",
    "prompt_embeds": "it holds embeddings where text belongs",
    "prompt_token_ids": "its input is token ids, not text: log in front of the tokenizer",
    "images": "it holds images",
}
"""Fields that stand for what the model read and the body does not spell out -> why."""


def asks(body: Mapping[str, Any]) -> bool:
    """Tell whether a body asks a language or an embedding model."""
    return any(body.get(name) is not None for name in _ASKS)


def texts_of(
    body: Mapping[str, Any], *, turns: bool = False, answer: Mapping[str, Any] | None = None
) -> list[object]:
    """Return each text that the model read: one, or several of a batch.

    Args:
        body: The request.
        turns: Whether a text of `input` is what a user says, as in OpenAI's Responses.
        answer: The response's body, where it is a document of its own: a last turn of the
            assistant is then part of what was asked.

    Raises:
        Bad: It holds what is no text, or not all that the model read.
    """
    _require_spelled_out(body)
    before = _instructions(body)
    messages = body.get("messages") if body.get("messages") is not None else body.get("contents")
    if messages is not None:
        return [_conversation([*before, *turns_of(messages)], body, answer)]
    inputs = body.get("input") if body.get("input") is not None else body.get("prompt")
    if isinstance(inputs, list) and inputs and all(isinstance(item, Mapping) for item in inputs):
        return [_conversation([*before, *turns_of(inputs)], body, {} if answer is None else answer)]
    texts = _plain(inputs)
    if not (before or turns):
        return texts
    return [
        transcript([*before, Turn("user", text)]) if isinstance(text, str) else text
        for text in texts
    ]


def _require_spelled_out(body: Mapping[str, Any]) -> None:
    for name, why in _ELSEWHERE.items():
        if body.get(name):
            raise Bad(f"it has {name}: {why}")
    if isinstance(body.get("context"), list) and body["context"]:
        raise Bad("it has context: its earlier turns are token ids")
    if isinstance(body.get("prompt"), Mapping):
        raise Bad("its prompt is a template that the server keeps, not text")


def context_of(body: Mapping[str, Any], *holders: object) -> dict[str, object]:
    """Return tenant, domain, language and label, the last holder's before the first's."""
    fields: dict[str, Any] = {}
    for holder in (body.get("metadata"), *holders):
        fields |= holder if isinstance(holder, Mapping) else {}
    tenant = (
        fields.get("tenant")
        or body.get("safety_identifier")
        or body.get("user")
        or fields.get("user_id")
    )
    named = {name: fields.get(name) for name in ("domain", "language", "label")}
    return {name: value for name, value in {**named, "tenant": tenant}.items() if is_name(value)}


def _conversation(
    turns: list[Turn], body: Mapping[str, Any], answer: Mapping[str, Any] | None
) -> str:
    last = turns[-1]
    if last.role != "assistant":
        return transcript(turns)
    if answer is None or last.text == _reply(answer):
        return transcript(turns[:-1])
    begun = body.get("continue_final_message") is True or answer.get("type") == "message"
    return transcript(turns, begun=begun)


def _reply(answer: Mapping[str, Any]) -> str | None:
    """Return the text that was answered, where it is told in one of the usual places."""
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else answer
    message = first.get("message", first) if isinstance(first, Mapping) else {}
    content = message.get("content") if isinstance(message, Mapping) else None
    try:
        return content_of(content, "the reply") or None
    except Bad:
        return None


def _instructions(body: Mapping[str, Any]) -> list[Turn]:
    """Return what stands beside the turns, in the order in which templates put it before them."""
    turns: list[Turn] = []
    for name in _INSTRUCTIONS:
        value = body.get(name)
        items = value if isinstance(value, list) else []
        if any(isinstance(item, Mapping) and "role" in item for item in items):
            turns += turns_of(value)
        elif text := content_of(value, name):
            turns.append(Turn("system", text))
    turns += [
        Turn("system", json.dumps({name: body[name]}, sort_keys=True, ensure_ascii=False))
        for name in _LISTS
        if body.get(name)
    ]
    return turns


def _plain(inputs: object) -> list[object]:
    if not isinstance(inputs, list):
        return [inputs]
    if not inputs:
        raise Bad("its input is an empty list")
    if all(isinstance(item, str) for item in inputs):
        return list(inputs)
    if all(isinstance(item, (int, list)) for item in inputs):
        raise Bad("its input is token ids, not text: log in front of the tokenizer")
    raise Bad("its input is a list of neither texts nor turns")
