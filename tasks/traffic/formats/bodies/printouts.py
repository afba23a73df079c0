"""What a program prints of a value, where a log keeps that in the value's stead.

A printout is no text that anybody sent: of an array or a table it leaves values out, of an object
it tells where it lay. Only a text that is a printout from its first letter to its last counts.
"""

from __future__ import annotations

import re

# Possessive quantifiers: a text of a megabyte is judged in one pass.
_NUMBER = r"[-+]?+(?:\d++(?:\.\d*+)?+(?:[eE][-+]?\d++)?+|\.\d++|nan|inf|True|False)"
_QUOTED = r"(?:'(?:[^'\\]|\\.)*+'|\"(?:[^\"\\]|\\.)*+\")"
_PRINTED: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "an object",
        re.compile(r"\[?+(?:<(?:[^<>\n]|<\w++>)+ at 0x[0-9a-fA-F]++[^<>\n]*>(?:, )?+)++\]?+"),
    ),
    ("an object", re.compile(r"\[object \w++\](?:,\[object \w++\])*+")),
    ("bytes", re.compile(rf"b{_QUOTED}|bytearray\(b{_QUOTED}\)")),
    ("an array", re.compile(r"(?:array|Array|tensor)\([-\[\d].*\)", re.DOTALL)),
    ("an array", re.compile(r"tf\.Tensor\(.*\)|<tf\.Tensor: .*>", re.DOTALL)),
    ("a column", re.compile(r"\w*Index\(.*dtype=.*\)", re.DOTALL)),
    # NumPy parts the members of an array by spaces, of numbers and of texts.
    ("an array", re.compile(rf"\[[\[\s]*+{_NUMBER}(?:[\s\]\[]++(?:{_NUMBER}|\.\.\.))++[\s\]]++")),
    ("an array", re.compile(rf"\[[\[\s]*+{_QUOTED}(?:[\s\]\[]++(?:{_QUOTED}|\.\.\.))++[\s\]]++")),
    ("a table", re.compile(r"Empty DataFrame\n.*|DataFrame\[\w++: .*\]", re.DOTALL)),
    ("a table", re.compile(r"shape: \(\d++,(?: \d++)?\)\n┌.*", re.DOTALL)),  # Polars
    ("a table", re.compile(r"pyarrow\.(?:Table|RecordBatch)\n.*", re.DOTALL)),
)
# Lists that somebody cut: [0.1, 0.2, ..., 0.9]
_CUT = re.compile(rf"\[[\[\s]*+(?:{_NUMBER}|\.\.\.)(?:[\s,\]\[]++(?:{_NUMBER}|\.\.\.))*+[\s\]]*+")
_LAST_LINE = re.compile(r"\[\d++ rows x \d++ columns\]|(?:.*, )?dtype: \w+|Categories \(.*\): .*")


def printed(text: str) -> str | None:
    """Return what a text is the printout of, in words; None where it is an ordinary text."""
    whole = text.strip()
    for kind, pattern in _PRINTED:
        if pattern.fullmatch(whole):
            return kind
    if "..." in whole and any(map(str.isdigit, whole)) and _CUT.fullmatch(whole):
        return "a cut array"
    lines = text.strip("\n").splitlines()
    if len(lines) > 1 and _LAST_LINE.fullmatch(lines[-1].strip()) and _has_columns(lines[:-1]):
        return "a table"
    return "a table" if _is_frame(lines) else None


def _is_frame(lines: list[str]) -> bool:
    """Tell whether lines are a data frame as pandas prints it: aligned, an index on the left."""
    if len(lines) < 2 or not lines[0].startswith(" ") or len({len(line) for line in lines}) > 1:
        return False
    return all("  " in line and not line.startswith(" ") for line in lines[1:])


def _has_columns(lines: list[str]) -> bool:
    return any("  " in line for line in lines) or lines[0].startswith("['")
