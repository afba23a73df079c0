"""Numbers of people by country: python-stdnum's checksums, and phonenumbers' numbering plans.

A form alone (`nnn-nn-nnnn`, two letters and six digits) or a strong checksum is enough. A weaker
checksum holds for one number in ten by chance: such a number counts where its word stands before
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

BEFORE = 48
"""Characters before a number in which its word is looked for."""
REGIONS = (
    *("US", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "SE", "IN", "BR", "JP"),
    *("CA", "AU", "CH", "AT", "BE", "FI", "NO", "DK", "PT", "IE", "KR", "MX", "TR", "ZA"),
)
"""Whose numbering plans are tried, in this order."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text that names a person."""

    start: int
    end: int
    kind: str  # such as FR_NIR


@dataclass(frozen=True, slots=True)
class _NumberRule:
    kind: str
    pattern: re.Pattern[str]
    module: str  # of stdnum, that checks it; empty: the form is enough
    word: re.Pattern[str] | None = None  # must stand before it, or the form must be the strict one
    strict: re.Pattern[str] | None = None


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.+/-])(?:{pattern})(?![\w/-]|\.\d)", re.ASCII | re.IGNORECASE)


def _word(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{words})\b|マイナンバー|個人番号", re.IGNORECASE)


def _rule(
    kind: str, pattern: str, module: str = "", word: str = "", strict: str = ""
) -> _NumberRule:
    return _NumberRule(
        kind,
        _compiled(pattern),
        module,
        _word(word) if word else None,
        _compiled(strict) if strict else None,
    )


_ID = r"id|ident\w*|nr|no|num\w*|nº|n°|número|numéro|numero|nummer|numer|number"
_RULES = (
    _rule("IBAN_CODE", r"[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?", "iban"),
    _rule("US_SSN", r"\d{3}[- ]\d\d[- ]\d{4}", "us.ssn"),
    _rule("US_SSN", r"\d{9}", "us.ssn", r"ssn|social security\W*(?:number|no|#)?"),
    _rule("US_EIN", r"\d\d-?\d{7}", "us.ein", r"ein|employer identification|tax id|fein"),
    _rule("UK_NINO", r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]"),
    _rule("UK_NHS", r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", r"nhs|patient|health"),
    _rule("UK_UTR", r"\d{5} ?\d{5}", "gb.utr", r"utr|taxpayer|tax reference"),
    _rule(
        "DE_TAX_ID",
        r"\d\d ?\d{3} ?\d{3} ?\d{3}",
        "de.idnr",
        r"steuer\w*|idnr|tin|identifikationsnummer|tax",
        r"\d\d \d{3} \d{3} \d{3}",
    ),
    _rule("FR_NIR", r"[1-478] ?\d\d ?\d\d ?[0-9AB]{2} ?\d{3} ?\d{3} ?\d\d", "fr.nir"),
    _rule("FR_SIRET", r"\d{3} ?\d{3} ?\d{3} ?\d{5}", "fr.siret", r"siret"),
    _rule("ES_NIF", r"\d{2}\.?\d{3}\.?\d{3}[ -]?[A-Z]", "es.dni"),
    _rule("ES_NIE", r"[XYZ][ -]?\d{7}[ -]?[A-Z]", "es.nie"),
    _rule(
        "IT_FISCAL_CODE",
        r"[A-Z]{3} ?[A-Z]{3} ?\d\d[A-EHLMPRST]\d\d ?[A-Z]\d{3}[A-Z]",
        "it.codicefiscale",
    ),
    _rule("IT_VAT", r"\d{11}", "it.iva", r"iva|p\.iva|partita"),
    _rule(
        "NL_BSN",
        r"\d{4}\.?\d\d\.?\d{3}",
        "nl.bsn",
        r"bsn|burgerservice\w*|sofi\w*",
        r"\d{4}\.\d\d\.\d{3}",
    ),
    _rule("PL_PESEL", r"\d{11}", "pl.pesel"),
    _rule("PL_NIP", r"\d{3}-?\d{3}-?\d\d-?\d\d", "pl.nip", r"nip", r"\d{3}-\d{3}-\d\d-\d\d"),
    _rule("SE_PERSONNUMMER", r"(?:\d\d)?\d{6}[-+]\d{4}", "se.personnummer"),
    _rule(
        "SE_PERSONNUMMER", r"(?:\d\d)?\d{10}", "se.personnummer", r"person\w*|pnr|samordnings\w*"
    ),
    _rule(
        "IN_AADHAAR",
        r"\d{4}[ -]?\d{4}[ -]?\d{4}",
        "in_.aadhaar",
        rf"aadhaar|aadhar|uid\w*|आधार|{_ID}",
        r"\d{4} \d{4} \d{4}",
    ),
    _rule("IN_PAN", r"[A-Z]{3}[ABCFGHLJPT][A-Z]\d{4}[A-Z]", "in_.pan"),
    _rule("BR_CPF", r"\d{3}\.?\d{3}\.?\d{3}-?\d\d", "br.cpf", "cpf", r"\d{3}\.\d{3}\.\d{3}-\d\d"),
    _rule(
        "BR_CNPJ",
        r"\d\d\.?\d{3}\.?\d{3}/?\d{4}-?\d\d",
        "br.cnpj",
        "cnpj",
        r"\d\d\.\d{3}\.\d{3}/\d{4}-\d\d",
    ),
    _rule("JP_MY_NUMBER", r"\d{4}[ -]?\d{4}[ -]?\d{4}", "jp.in_", "my number"),
    _rule("KR_RRN", r"\d{6}-[1-8]\d{6}", "kr.rrn"),
    _rule("CA_SIN", r"\d{3}[ -]?\d{3}[ -]?\d{3}", "ca.sin", r"sin|social insurance"),
    _rule("AU_TFN", r"\d{3} ?\d{3} ?\d{2,3}", "au.tfn", r"tfn|tax file"),
    _rule("CH_AHV", r"756[. ]?\d{4}[. ]?\d{4}[. ]?\d\d", "ch.ssn"),
    _rule("FI_HETU", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]", "fi.hetu"),
    _rule("TR_TCKN", r"[1-9]\d{10}", "tr.tckimlik", r"t\.?c\.?|kimlik"),
    _rule("MX_CURP", r"[A-Z]{4}\d{6}[HM][A-Z]{5}[0-9A-Z]\d", "mx.curp"),
    _rule("CN_RIC", r"[1-9]\d{16}[0-9X]", "cn.ric"),
)
_CALL = re.compile(
    r"\b(?:phone|call|tel|mobile|cell|fax|reach|ring|text me|sms|whatsapp|anrufen|rufen|handy|mobil"
    r"|my number|meine nummer|mijn nummer|rufnummer|téléphone|portable|appel|joindre|teléfono|móvil"
    r"|llám|llamar|cellulare|chiam|bel\b|bellen|mobiel|komórk|zadzwoń|dzwoń|celular|fone|ligar|ligue"
    r"|फ़ोन|मोबाइल)",
    re.IGNORECASE,
)
_CALL_JAPANESE = re.compile(r"電話|携帯|連絡")
_PHONE = re.compile(r"(?<![\w.+/-])(?:\+|00|\(?0|\()?\(?\d[\d ().\-/]{5,20}\d(?![\w/-]|\.\d)")
_DATE = re.compile(r"\d{4}[-./]\d\d?[-./]\d\d?|\d\d?[-./]\d\d?[-./]\d{4}")
_GROUPED = re.compile(r"[ ().\-/]")


def spans(text: str) -> Iterator[Span]:
    """Yield what names a person by number, in no order; spans may overlap."""
    for rule in _RULES:
        for match in rule.pattern.finditer(text):
            if _is_genuine(rule, match, text):
                yield Span(match.start(), match.end(), rule.kind)
    for match in _PHONE.finditer(text):
        if _is_phone(match, text):
            yield Span(match.start(), match.end(), "PHONE_NUMBER")


def _is_genuine(rule: _NumberRule, match: re.Match[str], text: str) -> bool:
    number = match.group()
    if rule.word is not None and not (rule.strict and rule.strict.fullmatch(number)):
        before = text[max(0, match.start() - BEFORE) : match.start()]
        if rule.word.search(before) is None:
            return False
    return not rule.module or _check(rule.module)(number)


def _is_phone(match: re.Match[str], text: str) -> bool:
    """Return whether a run of digits is a number that one can call, and looks like one.

    With its country's code it is; a national one must begin with 0 and be grouped, or follow a word
    such as "call".
    """
    number = match.group()
    digits = sum(letter.isdigit() for letter in number)
    if not 8 <= digits <= 15 or _DATE.fullmatch(number):
        return False
    international = number.startswith(("+", "00"))
    before = text[max(0, match.start() - BEFORE) : match.start()]
    called = bool(_CALL.search(before) or _CALL_JAPANESE.search(before))
    grouped = number.startswith(("0", "(")) and len(_GROUPED.findall(number)) >= 2
    if not (international or called or grouped):
        return False
    plain = f"+{number[2:]}" if number.startswith("00") else number
    regions = ("ZZ",) if international else REGIONS
    return any(_is_valid(plain, region) for region in regions)


def _is_valid(number: str, region: str) -> bool:
    library = _phonenumbers()
    try:
        return bool(library.is_valid_number(library.parse(number, region)))
    except library.NumberParseException:
        return False


@cache
def _phonenumbers() -> Any:  # an optional library without types
    return import_module("phonenumbers")


@cache
def _check(module: str) -> Callable[[str], bool]:
    is_valid: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    return is_valid
