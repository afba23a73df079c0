r"""A conversation as one text that can be read back: `Speaker: text`, a turn after another.

    System: Be brief.
    User: hi
    Assistant: hello
    User: where am I?
    Assistant:

A line of a turn that itself begins like a turn has a backslash before it, so that what users write
never becomes a turn of its own. The last turn is the reply, or an empty `Assistant:` where it is
yet to come.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

SPEAKERS: Mapping[str, str] = MappingProxyType(
    {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
)
"""Roles as chat templates name them -> how a transcript writes them."""
_ROLES = {speaker: role for role, speaker in SPEAKERS.items()}
_NAMES = "|".join(SPEAKERS.values())
_TURN = re.compile(rf"^({_NAMES}):(?: |$)", re.MULTILINE)
_LIKE_A_TURN = re.compile(rf"^(\\*)({_NAMES}):(?= |$)", re.MULTILINE)
_ESCAPED = re.compile(rf"^\\(\\*)({_NAMES}):(?= |$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says."""

    role: str  # one of SPEAKERS
    text: str


def write_transcript(turns: Sequence[Turn]) -> str:
    """Return the turns as one text; an empty assistant's turn at the end waits for the reply."""
    lines = (f"{SPEAKERS[turn.role]}: {_escaped(turn.text)}" for turn in turns[:-1])
    last = turns[-1]
    reply = f" {_escaped(last.text)}" if last.text else ""
    return "\n".join([*lines, f"{SPEAKERS[last.role]}:{reply}"])


def read_transcript(text: str) -> tuple[Turn, ...] | None:
    """Return the turns of a transcript, the reply last; None for any other text.

    A transcript begins with a turn and ends with the assistant's.
    """
    starts = list(_TURN.finditer(text))
    if not starts or starts[0].start() or starts[-1][1] != SPEAKERS["assistant"]:
        return None
    ends = [match.start() - 1 for match in starts[1:]] + [len(text)]
    return tuple(
        Turn(_ROLES[match[1]], _later_lines(text[match.end() : end], _ESCAPED, r"\1\2:"))
        for match, end in zip(starts, ends, strict=True)
    )


def _escaped(text: str) -> str:
    """Mark lines that begin like a turn."""
    return _later_lines(text, _LIKE_A_TURN, r"\\\1\2:")


def _later_lines(text: str, pattern: re.Pattern[str], replacement: str) -> str:
    """Replace in all lines but the first, which stands behind its speaker."""
    first, newline, rest = text.partition("\n")
    return first + newline + pattern.sub(replacement, rest)
