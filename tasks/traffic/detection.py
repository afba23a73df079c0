"""The language and the domain of a chat, where nobody says them."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from tasks.records import UNKNOWN
from tasks.transcripts import read_transcript

SURE = 0.9
"""Probability below which a language is not named.

Of 444 golden texts of MiniLM in ten languages, 86 % are told so, each rightly; without it 98 %
would be right. `py3langid` was chosen before `lingua`, which has 99 % right at 45 times the time
(6.3 ms a text), in 96 MB and 1.3 GB of memory.
"""
LOOKED_AT = 2000
"""Characters of a text by which both are told."""
CODE = "code"
_MARKUP = re.compile(r"`[^`]*`|https?://\S+|[\w.]+@[\w.]+|[^\W\d_]*[\d_]\S*")
_FENCE = re.compile(r"^ *(?:```|~~~)", re.MULTILINE)
_OF_CODE = re.compile(
    r"^\s*(?:def |class |import |from \w+ import|return\b|#include|public |private |function\b|"
    r"const |let |var |SELECT |INSERT |</?\w+>|@\w+|//|/\*)|[;{}]\s*$|^\s*\w+(?:\.\w+)*\(.*\)\s*$|"
    r"^\s*\w+ = \S"
)
_FEWEST_LINES = 3


def language_of(text: str) -> str:
    """Return the ISO 639-1 code of a text's language, or UNKNOWN where that is not certain.

    Of a conversation what was said counts, and not who said it.
    """
    prose = _MARKUP.sub(" ", "\n".join(_said(text)))[:LOOKED_AT]
    if not any(letter.isalpha() for letter in prose):
        return UNKNOWN
    language, probability = _identifier().classify(prose)
    return str(language) if probability >= SURE else UNKNOWN


def domain_of(text: str) -> str:
    """Return "code" for a text with a block of code, or mostly of lines of it, else UNKNOWN."""
    said = "\n".join(_said(text))[:LOOKED_AT]
    if len(_FENCE.findall(said)) > 1:
        return CODE
    lines = [line for line in said.splitlines() if line.strip()]
    of_code = sum(bool(_OF_CODE.search(line)) for line in lines)
    return CODE if of_code >= _FEWEST_LINES and 2 * of_code >= len(lines) else UNKNOWN


def _said(text: str) -> Sequence[str]:
    turns = read_transcript(text)
    return [text] if turns is None else [turn.text for turn in turns if turn.role != "system"]


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # it takes half a second to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
