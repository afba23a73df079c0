"""Identifiers of many countries in texts: a library's recognizers beside our patterns.

Presidio's recognizers of numbers that carry a checksum or a fixed form run on a blank pipeline of
spaCy: bank accounts, cards, national, tax and health numbers, wallets, phone numbers. Its
named-entity models (people, places) are not in any package index, so names and addresses are *not*
recognised; `requant doctor` says so.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from infra.errors import BadInput
from tasks.personal_data import national, secrets_rules
from tasks.personal_data.national import Span
from tasks.personal_data.redaction import Redacted

PACKAGES = ("presidio_analyzer", "spacy", "stdnum", "phonenumbers", "detect_secrets")
LIMITS = (
    "checksums and fixed forms only: "
    "its models that recognise names and places cannot be had without a download"
)
LANGUAGE = "xx"
LEAST_SCORE = 0.5
"""Presidio's certainty: a bare number of the right length has less, a valid checksum 1."""
DIGITS = 4
"""The least number of digits in a text that is looked at.

Every identifier looked for has some, and most texts have none and are passed over fast.
"""
_JOINTS = ".-_/+"
"""What joins a match with what stands beside it."""
RECOGNIZERS = (
    "AbaRoutingRecognizer",
    "AuAbnRecognizer",
    "AuMedicareRecognizer",
    "AuTfnRecognizer",
    "CaSinRecognizer",
    "CreditCardRecognizer",
    "CryptoRecognizer",
    "DeSocialSecurityRecognizer",
    "DeTaxIdRecognizer",
    "EsNieRecognizer",
    "EsNifRecognizer",
    "FiPersonalIdentityCodeRecognizer",
    "IbanRecognizer",
    "InAadhaarRecognizer",
    "InGstinRecognizer",
    "ItFiscalCodeRecognizer",
    "ItVatCodeRecognizer",
    "KrFrnRecognizer",
    "KrRrnRecognizer",
    "PhoneRecognizer",
    "PlPeselRecognizer",
    "SePersonnummerRecognizer",
    "SgFinRecognizer",
    "ThTninRecognizer",
    "TrNationalIdRecognizer",
    "UkNinoRecognizer",
    "UsItinRecognizer",
    "UsMbiRecognizer",
    "UsNpiRecognizer",
    "UsSsnRecognizer",
    "ZaIdNumberRecognizer",
)
"""Those whose matches a checksum or a strict form confirms.

Postcodes, plates, dates and hosts are left alone.
"""


def missing() -> str | None:
    """Say why the library cannot be used here; None where it can."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return (
        f"{' and '.join(absent)} not installed: pip install 'requant[privacy]'" if absent else None
    )


def require_library() -> None:
    """Raise `BadInput` where a spec asks for the library and it is not there."""
    reason = missing()
    if reason is not None:
        raise BadInput(f"calibration.privacy is 'library', but {reason}; or set it to 'patterns'")


def scrub(text: str) -> Redacted:
    """Replace what the library recognises by "<KIND>".

    Doing it twice changes nothing more. It comes after `tasks.personal_data.redaction.redact`,
    never instead of it.

    Raises:
        BadInput: The library is missing.
    """
    require_library()
    counts: Counter[str] = Counter()
    parts: list[str] = []
    end = 0
    for span in sorted(_spans(text), key=lambda span: (span.start, -span.end)):
        if span.start >= end:
            parts += (text[end : span.start], f"<{span.kind}>")
            counts[f"<{span.kind}>"] += 1
            end = span.end
    return Redacted("".join((*parts, text[end:])), MappingProxyType(dict(counts)))


def _spans(text: str) -> Iterator[Span]:
    """Yield what the libraries recognise; most texts have few digits, and are passed over fast."""
    yield from secrets_rules.spans(text)
    if sum(letter.isdecimal() for letter in text) < DIGITS:
        return
    yield from national.spans(text)
    for match in _analyzer().analyze(text, language=LANGUAGE):
        if not _is_part(text, match.start, match.end):
            yield Span(match.start, match.end, match.entity_type)


def _is_part(text: str, start: int, end: int) -> bool:
    """Return whether a match is a piece of a longer number or name, such as a UUID's end."""
    before, after = text[:start][-1:], text[end : end + 2]
    if before and (before in _JOINTS or (before.isalnum() and before.isascii())):
        return True
    return after[:1].isdigit() or (after[:1] in _JOINTS and after[1:].isalnum())


@lru_cache(maxsize=1)
def _analyzer() -> Any:  # the library is optional
    """Import the library late: it takes seconds, and most commands need none of it."""
    require_library()
    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry, predefined_recognizers
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    logging.getLogger("presidio-analyzer").setLevel(
        logging.ERROR
    )  # it warns of every recognizer's other languages
    engine = SpacyNlpEngine(models=[{"lang_code": LANGUAGE, "model_name": "blank"}])
    engine.nlp = {
        LANGUAGE: spacy.blank(LANGUAGE)
    }  # set here, because `load` would download a model
    registry = RecognizerRegistry(supported_languages=[LANGUAGE])
    for name in RECOGNIZERS:
        registry.add_recognizer(getattr(predefined_recognizers, name)(supported_language=LANGUAGE))
    return AnalyzerEngine(
        registry=registry,
        nlp_engine=engine,
        supported_languages=[LANGUAGE],
        default_score_threshold=LEAST_SCORE,
    )
