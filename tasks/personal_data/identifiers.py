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
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from infra.errors import BadInput
from tasks.personal_data.redaction import Redacted

PACKAGES = ("presidio_analyzer", "spacy")
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
    "NhsRecognizer",
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
    if sum(letter.isdecimal() for letter in text) < DIGITS:
        return Redacted(text, MappingProxyType({}))
    counts: Counter[str] = Counter()
    matches = sorted(
        _analyzer().analyze(text, language=LANGUAGE), key=lambda match: (match.start, -match.end)
    )
    parts: list[str] = []
    end = 0
    for match in matches:
        if match.start >= end:
            parts += (text[end : match.start], f"<{match.entity_type}>")
            counts[f"<{match.entity_type}>"] += 1
            end = match.end
    return Redacted("".join((*parts, text[end:])), MappingProxyType(dict(counts)))


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
