"""Identifiers that a checksum confirms go; everything else stays as it is."""

import importlib.util
from pathlib import Path

import pytest

from infra.errors import BadInput
from tasks.models.corpus import read_corpus
from tasks.personal_data import identifiers as privacy
from tasks.personal_data.identifiers import scrub
from tasks.personal_data.redaction import redact

CORPUS = Path(__file__).resolve().parents[4] / "examples" / "minilm" / "traffic.parquet"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("pay to DE89370400440532013000 please", "<IBAN_CODE>"),
        ("NHS number 943 476 5919", "<UK_NHS>"),
        ("codice fiscale RSSMRA85T10A562S", "<IT_FISCAL_CODE>"),
        ("PESEL 44051401359", "<PL_PESEL>"),
        ("DNI 12345678Z", "<ES_NIF>"),
        ("Aadhaar 2345 6789 0124", "<IN_AADHAAR>"),
        ("personnummer 811218-9876", "<SE_PERSONNUMMER>"),
        ("wallet 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "<CRYPTO>"),
    ],
)
def test_what_our_patterns_leave_is_found_by_its_checksum(text: str, kind: str) -> None:
    assert redact(text).text == text
    found = scrub(text)
    assert dict(found.counts) == {kind: 1}
    assert kind in found.text
    assert scrub(found.text).text == found.text


def test_numbers_versions_dates_and_code_stay() -> None:
    for text in (
        "def f(x): return x[1024] + 0xFFFF  # since 3.11.7",
        "pay to DE89370400440532013001 please",  # its checksum does not hold
        "2026-11-24 15:17:08 took 12345678 ns",
    ):
        assert scrub(text).text == text


def test_the_shipped_traffic_holds_no_identifier() -> None:
    rows = read_corpus(CORPUS.read_bytes(), where="the corpus")[::40]
    assert not [one.payload for one in rows if scrub(str(one.payload)).counts]


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        BadInput, match=r"pip install 'requant\[privacy\]'; or set it to 'patterns'"
    ):
        privacy.require_library()
