"""Personal data and secrets in free text, replaced before anything is stored.

E-mail addresses, phone numbers, payment card numbers (Luhn-checked), API keys and passwords are
replaced. Code, dates, versions, host addresses, hashes and plain numbers are left, because models
are calibrated on them. All patterns run in linear time: quantifiers over long runs are bounded or
possessive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

EMAIL, PHONE, CARD, KEY = "<EMAIL>", "<PHONE>", "<CARD>", "<KEY>"


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without personal data, and how many of each placeholder replaced what was removed."""

    text: str
    counts: Mapping[str, int]  # "<EMAIL>" -> 2; only what was found


@dataclass(frozen=True, slots=True)
class _Rule:
    placeholder: str
    pattern: re.Pattern[
        str
    ]  # the group "secret" is what goes; the whole match when there is no such group
    genuine: Callable[[str], bool] = lambda _: True  # a check that a pattern cannot express
    needs: str = (
        ""  # one of these letters is in every match: most texts have none, and are passed over fast
    )


def _luhn(text: str) -> bool:
    """Check Luhn's checksum (ISO/IEC 7812-1, annex B) of a number with an issuer's prefix."""
    digits = [int(letter) for letter in text if letter.isdecimal()]
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0 and len(set(digits)) > 1


def _dialable(text: str) -> bool:
    """Tell whether there are between seven and fifteen digits (ITU-T E.164)."""
    return 7 <= sum(letter.isdecimal() for letter in text) <= 15


def _secretive(text: str) -> bool:
    """Tell whether a text looks random: letters and digits mixed, unlike names in code."""
    return any(letter.isdigit() for letter in text) and any(letter.isalpha() for letter in text)


_DIGITS = "0123456789"
_PREFIXED = "|".join(
    (
        r"sk-[\w-]{16,}",
        r"[spr]k_(?:live|test)_\w{16,}",
        r"gh[pousr]_\w{20,}",
        r"github_pat_\w{20,}",
        r"glpat-[\w-]{16,}",
        r"(?:AKIA|ASIA)[0-9A-Z]{16}",
        r"AIza[\w-]{30,}",
        r"xox[abeoprs]-[\w-]{10,}",
        r"hf_[A-Za-z0-9]{20,}",
        r"npm_[A-Za-z0-9]{30,}",
        r"pypi-[\w-]{30,}",
        r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",  # JSON web token
    )
)
_NAMES = (
    r"(?:api|access|secret|private|auth|account)[_-]?key|(?:access|auth|refresh|bearer|api)[_-]?token"
    r"|client[_-]?secret|secret|password|passwd|pwd"
)
_ASSIGNED = r"[\"']?\s{0,3}[=:]\s{0,3}[\"']?"

_RULES = (
    _Rule(
        KEY,
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[\w+/=\s\\:,]|-(?!----)){40,}+"
            r"(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?"
        ),
    ),
    _Rule(KEY, re.compile(rf"(?<![\w-])(?:{_PREFIXED})", re.ASCII)),
    _Rule(KEY, re.compile(r"://[^\s/:@<>]{1,64}:(?P<secret>[^\s/@<>]{1,128})@")),
    _Rule(
        KEY,
        re.compile(r"\b(?:Bearer|Basic)[ ]{1,3}(?P<secret>[\w+/=.~-]{16,}+)", re.ASCII),
        _secretive,
    ),
    _Rule(
        KEY,
        re.compile(
            # A call, an index or an attribute after the value makes it code:
            # key=operator.itemgetter(1).
            rf"(?i:(?<![A-Za-z])(?:{_NAMES})){_ASSIGNED}(?P<secret>[\w+/=~-]{{8,}}+)(?![(\[.])",
            re.ASCII,
        ),
        _secretive,
        needs="=:",
    ),
    # Code has many short things that it calls key or token.
    _Rule(
        KEY,
        re.compile(
            rf"(?i:(?<![A-Za-z])(?:key|token)){_ASSIGNED}(?P<secret>[\w+/=~-]{{16,}}+)(?![(\[.])",
            re.ASCII,
        ),
        _secretive,
        needs="=:",
    ),
    _Rule(
        KEY,
        re.compile(
            r"(?i:(?<![A-Za-z])(?:password|passwd|pwd|passphrase))[\"']?\s{0,3}[=:]\s{0,3}"
            r"(?P<quote>[\"'])(?P<secret>[^\s\"'<>{}]{8,128})(?P=quote)"
        ),
        needs="=:",
    ),
    _Rule(
        EMAIL,
        re.compile(
            # `git@host:path` names no person, and `x @ self.weight` is a matrix product.
            r"(?<![\w.+%-])(?!git@)[\w.+%-]{1,64}"
            r"@(?!(?:self|cls|np|torch)\.)(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}\b"
        ),
        needs="@",
    ),
    _Rule(
        CARD,
        re.compile(
            r"(?<![\w.])(?:"
            r"(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6(?:011|4[4-9]\d|5\d\d|2\d\d)|35\d\d)"
            r"([ -]?)\d{4}\1\d{4}\1\d{4}"
            r"|3[47]\d\d([ -]?)\d{6}\2\d{5}"
            r"|3(?:0[0-5]|[68]\d)\d([ -]?)\d{6}\3\d{4})(?![\w-]|\.\d)",
            re.ASCII,
        ),
        _luhn,
        needs=_DIGITS,
    ),
    _Rule(
        PHONE,
        re.compile(r"(?<![\w+.)])\+[1-9](?:[ .()/-]{0,2}\d){7,14}(?![\w+]|[.-]\d)", re.ASCII),
        _dialable,
        needs="+",
    ),
    _Rule(
        PHONE,
        re.compile(
            r"(?<![\w.+-])(?:\([2-9]\d\d\)[ ]?[2-9]\d\d[ .-]\d{4}"
            r"|[2-9]\d\d([.-])[2-9]\d\d\1\d{4})(?![\w]|[.-]\d)",
            re.ASCII,
        ),
        needs=_DIGITS,
    ),
    _Rule(
        PHONE,
        re.compile(r"(?<![\w.+-])0[1-9](?:([ .-])\d\d)(?:\1\d\d){3}(?![\w]|[ .:-]\d)", re.ASCII),
        needs="0",
    ),
    _Rule(
        PHONE,
        re.compile(
            # National numbers look like any number: only a word before them tells.
            r"(?i:\b(?:telephone|telefon|téléphone|phone|mobile|mobil|handy|tel|tél|fax|call|телефон|тел)\b|電話(?:番号)?)"
            r"(?:\s{0,2}(?:[.:#：は]|number|no\.?|nr\.?)){0,3}\s{0,3}"
            r"(?P<secret>\(?\d(?:[ ()/-]{0,2}\d){6,14})(?![\w]|[.-]\d)"
        ),
        _dialable,
    ),
)


def redact(text: str) -> Redacted:
    """Replace e-mail addresses, phone and card numbers, and secrets.

    Doing it twice changes nothing more.
    """
    counts: dict[str, int] = {}
    before = None
    # A replacement can lay bare what a neighbour hid.
    # Each round removes letters for good, so this ends.
    while before != text:
        before = text
        for rule in _RULES:
            if rule.needs and not any(letter in text for letter in rule.needs):
                continue
            text, replaced = _apply(rule, text)
            if replaced:
                counts[rule.placeholder] = counts.get(rule.placeholder, 0) + replaced
    return Redacted(text, MappingProxyType(counts))


def _apply(rule: _Rule, text: str) -> tuple[str, int]:
    spans = list(_spans(rule, text))
    if not spans:
        return text, 0
    parts: list[str] = []
    end = 0
    for start, stop in spans:
        parts += (text[end:start], rule.placeholder)
        end = stop
    return "".join((*parts, text[end:])), len(spans)


def _spans(rule: _Rule, text: str) -> Iterator[tuple[int, int]]:
    group = "secret" if "secret" in rule.pattern.groupindex else 0
    for match in rule.pattern.finditer(text):
        if rule.genuine(match.group(group)):
            yield match.span(group)
