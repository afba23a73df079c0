"""A conversation as the text that a model was given: the turns up to the reply."""

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
}
"""What providers call a speaker -> what a transcript does."""


def render(messages: object) -> str:
    """Return the transcript up to the reply; a reply at the end is left out.

    Raises:
        Bad: It is no conversation or holds what is no text.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise Bad("messages is not a list of turns")
    turns = [_turn(message, number) for number, message in enumerate(messages, 1)]
    if turns[-1].role == "assistant":
        turns.pop()
    if not turns:
        raise Bad("messages holds a reply alone")
    return write_transcript([*turns, Turn("assistant", "")])


def has_reply(messages: object) -> bool:
    """Tell whether the last turn is the assistant's."""
    return isinstance(messages, list) and bool(messages) and _role(messages[-1]) == "assistant"


def _turn(message: object, number: int) -> Turn:
    role = _role(message)
    if not isinstance(message, Mapping) or role not in ROLES:
        raise Bad(f"turn {number} has the role {role!r}: known are {', '.join(ROLES)}")
    text = _content(message.get("content"), number)
    calls = message.get("tool_calls")
    if calls:
        text = " ".join(filter(None, (text, json.dumps(calls, sort_keys=True, ensure_ascii=False))))
    return Turn(ROLES[role], text)


def _role(message: object) -> str:
    return str(message.get("role")) if isinstance(message, Mapping) else "none"


def _content(content: object, number: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Bad(f"the content of turn {number} is neither text nor a list of parts")
    return "\n".join(_part(part, number) for part in content)


def _part(part: Any, number: int) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
        raise Bad(f"turn {number} holds a part of type {kind!r}: only text is read")
    return text
