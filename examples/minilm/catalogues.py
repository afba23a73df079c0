"""Translated user-interface messages out of the gettext catalogues that Python packages carry."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

# Our language tag -> the folder names that catalogues use for it.
LOCALES: dict[str, tuple[str, ...]] = {
    "ja": ("ja",),
    "ru": ("ru",),
    "de": ("de",),
    "fr": ("fr",),
    "es": ("es",),
    "zh": ("zh_Hans", "zh_CN"),
    "ko": ("ko",),
    "pt": ("pt_BR",),
}

_QUOTED = re.compile(r'^(?:(msgid|msgstr|msgid_plural|msgctxt)(?:\[(\d+)\])?\s+)?(".*")$')
_NUMBER = re.compile(
    r"%\(\w*(?:count|number|num|total|max|min|limit|length|size|days?|hours?)\w*\)[sd]|%d|%i"
)
_PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%\.?\d*[a-z]|\{\{?[^{}]*\}?\}")
_MARKUP = re.compile(r"<[^<>]+>|&\w+;")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Message:
    """One catalogue entry: the English source and its translation."""

    source: str
    translation: str


def read_catalogue(path: Path) -> Iterator[Message]:
    """Yield the translated entries of a `.po` file in file order.

    Fuzzy, obsolete and plural-only forms are left out.
    """
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        lines = block.splitlines()
        if any(
            line.startswith("#~") or (line.startswith("#,") and "fuzzy" in line) for line in lines
        ):
            continue
        fields = _fields(lines)
        if fields.get("msgid") and fields.get("msgstr"):
            yield Message(_clean(fields["msgid"]), _clean(fields["msgstr"]))


def _fields(lines: list[str]) -> dict[str, str]:
    """Join the quoted continuation lines of one entry by keyword; keep the first plural form."""
    fields: dict[str, str] = {}
    current = ""
    for line in lines:
        match = _QUOTED.match(line)
        if match is None:
            continue
        keyword, plural, quoted = match.groups()
        if keyword is not None:
            current = keyword if plural in (None, "0") else "ignored"
        fields[current] = fields.get(current, "") + ast.literal_eval(quoted)
    return fields


def _clean(message: str) -> str:
    """Replace format placeholders by a number or an ellipsis, drop markup, collapse white space."""
    text = _MARKUP.sub("", _NUMBER.sub("3", message))
    text = _PLACEHOLDER.sub("…", text).replace("%%", "%")
    return _SPACE.sub(" ", text).strip()


def read_package(package: Path, language: str) -> Iterator[Message]:
    """Yield every message of a package for one of `LOCALES`, catalogue after catalogue.

    Catalogues come in path order.
    """
    catalogues = chain.from_iterable(
        package.rglob(f"locale/{name}/LC_MESSAGES/*.po") for name in LOCALES[language]
    )
    for path in sorted(catalogues, key=lambda path: path.relative_to(package).as_posix()):
        yield from read_catalogue(path)


def passages(messages: list[str], at_most: int) -> Iterator[str]:
    """Join consecutive messages into passages of at most `at_most` characters.

    Each message is used once.
    """
    passage = ""
    for message in messages:
        joined = f"{passage} {message}".strip()
        if passage and len(joined) > at_most:
            yield passage
            joined = message
        passage = joined
    if passage:
        yield passage
