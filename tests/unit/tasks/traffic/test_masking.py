"""No field of a stored request names somebody."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime

from infra.identifiers import RequestId
from tasks.records import Request
from tasks.traffic.masking import redacted

PERSON = "jo@acme.com"


def test_whatever_field_a_person_is_named_in_it_is_stored_without() -> None:
    named = Request(
        RequestId(f"r-{PERSON}"),
        datetime(2026, 3, 1, tzinfo=UTC),
        PERSON,
        f"docs {PERSON}",
        f"en {PERSON}",
        f"write to {PERSON}",
        decision=f"allowed {PERSON}",
        label=f"label {PERSON}",
        model_version=f"v3 of {PERSON}",
    )
    stored = redacted(named)
    for field in fields(Request):
        assert PERSON not in str(getattr(stored, field.name)), field.name
    assert redacted(stored) == stored
    assert stored.model_version == "v3 of <EMAIL>"
