"""A conversation as the text that a model was given: the turns up to the reply.

Turns are those of OpenAI's chat completions and Responses, of Anthropic's messages and of
Gemini's contents. Sources: https://platform.openai.com/docs/api-reference/responses/create,
https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.traffic.formats.raw import Bad
from tasks.transcripts import SPEAKERS, Turn, write_transcript

ROLES: Mapping[str, str] = {
    **{role: role for role in SPEAKERS},
    "developer": "system",
    "function": "tool",
    "model": "assistant",  # Gemini
    "human": "user",  # LangChain
    "ai": "assistant",
}
"""What providers call a speaker -> what a transcript does."""
_TEXTS = ("text", "input_text", "output_text", "reasoning_text", "summary_text")
_TOOL_PARTS = ("tool_use", "server_tool_use", "function_call", "functionCall", "toolUse")


def render(messages: object) -> str:
    """Return the transcript up to the reply; a reply at the end is left out.

    Raises:
        Bad: It is no conversation or holds what is no text.
    """
    turns = turns_of(messages)
    return transcript(turns[:-1] if turns[-1].role == "assistant" else turns)


def transcript(turns: Sequence[Turn], *, begun: bool = False) -> str:
    """Return turns up to the reply; `begun` says that the last turn is its beginning.

    Raises:
        Bad: There is no turn.
    """
    if not turns:
        raise Bad("messages holds a reply alone")
    return write_transcript(turns if begun else [*turns, Turn("assistant", "")])


def has_reply(messages: object) -> bool:
    """Tell whether the last turn is the assistant's."""
    return isinstance(messages, list) and bool(messages) and _role(messages[-1]) == "assistant"


def turns_of(messages: object) -> list[Turn]:
    """Return the turns of a list; raises `Bad` where one is none or holds what is no text."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise Bad("messages is not a list of turns")
    items = [_item(message, number) for number, message in enumerate(messages, 1)]
    turns = [turn for turn in items if turn is not None]
    if not turns:
        raise Bad("messages holds no turn")
    return turns


def content_of(content: object, where: str) -> str:
    """Return the text of a turn, of a block or of instructions; raises `Bad`, which names `where`.

    It is a text, one part or a list of parts.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return content_of(content["parts"], where) if "parts" in content else _part(content, where)
    if not isinstance(content, list):
        raise Bad(f"the content of {where} is neither text nor a list of parts")
    return "\n".join(filter(None, (_part(part, where) for part in content)))


def _item(message: object, number: int) -> Turn | None:
    """Return one turn; None of a step of reasoning that left no text."""
    where = f"turn {number}"
    kind = message.get("type") if isinstance(message, Mapping) else None
    if isinstance(message, Mapping) and isinstance(kind, str) and _role(message) == "none":
        if kind.endswith("_call"):
            return Turn("assistant", _dumped(_told(message)))
        if kind.endswith("_output"):
            return Turn("tool", _output(message.get("output"), where))
        if kind == "reasoning":
            return _reasoning(message, where)
    role = _role(message)
    if role == "none" and kind in ROLES:
        role = str(kind)
    elif role == "none" and isinstance(message, Mapping) and "parts" in message:
        role = "user"  # Gemini's, where one says nothing else
    if not isinstance(message, Mapping) or role not in ROLES:
        what = f"is of the type {kind!r}" if role == "none" and kind else f"has the role {role!r}"
        raise Bad(f"{where} {what}: known roles are {', '.join(ROLES)}")
    return Turn(ROLES[role], _said(message, where))


def _said(message: Mapping[str, Any], where: str) -> str:
    if message.get("images") or message.get("audio"):
        raise Bad(f"{where} holds images or audio: only text is read")
    content = message["parts"] if "parts" in message else message.get("content")
    calls = message.get("tool_calls") or message.get("function_call")
    refusal = message.get("refusal")
    said = (
        content_of(content, where),
        refusal if isinstance(refusal, str) else "",
        _dumped(calls) if calls else "",
    )
    return " ".join(filter(None, said))


def _reasoning(item: Mapping[str, Any], where: str) -> Turn | None:
    text = content_of(item.get("content") or item.get("summary"), where)
    if not text and item.get("encrypted_content"):
        raise Bad(f"{where} is encrypted reasoning, which nobody but its maker can read")
    return Turn("assistant", text) if text else None


def _role(message: object) -> str:
    return str(message.get("role") or "none") if isinstance(message, Mapping) else "none"


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):  # LangChain
        return part
    if not isinstance(part, Mapping):
        raise Bad(f"{where} holds a part of type None: only text is read")
    kind, text = part.get("type"), part.get("text")
    if isinstance(text, str) and (kind in _TEXTS or kind is None):
        return text
    for name in ("refusal", "thinking"):
        if kind == name and isinstance(part.get(name), str):
            return str(part[name])
    if kind in _TOOL_PARTS or any(name in part for name in _TOOL_PARTS):
        return _dumped(_told(part))
    if kind in ("tool_result", "function_response"):
        return _output(part.get("content"), where)
    if kind is None and "functionResponse" in part:
        return _dumped(part["functionResponse"])
    source = part.get("source") if kind == "document" else None
    if isinstance(source, Mapping) and source.get("type") == "text":
        return str(source.get("data") or "")
    raise Bad(f"{where} holds a part of type {kind!r}: only text is read")


def _output(output: object, where: str) -> str:
    """Return what a tool gave back: text, parts, or any other JSON as it is."""
    if isinstance(output, list) and all(
        isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in output
    ):
        return content_of(output, where)
    return output if isinstance(output, str) else _dumped(output)


def _told(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call without what the model is not shown."""
    return {name: value for name, value in call.items() if name not in ("status", "cache_control")}


def _dumped(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
