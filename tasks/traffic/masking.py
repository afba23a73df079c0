"""Stored traffic names nobody (ADR 38).

Texts are redacted, and ids that are personal data become pseudonyms under the workspace's key.
Texts of requests are read by patterns alone: the libraries take forty times as long, and read what
samples keep (docs/calibration.md). Names are read by both.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from functools import lru_cache
from pathlib import Path

from infra.identifiers import RequestId
from infra.keys.pseudonyms import PseudonymKeys, pseudonym, unkeyed
from infra.settings import settings
from tasks.personal_data.names import clean
from tasks.personal_data.redaction import redact
from tasks.records import Request

SHORT = 256
"""Characters: what is longer comes hardly twice, and is not kept in memory."""


def redacted(request: Request) -> Request:
    """Return the request without personal data; ids that are some become stable pseudonyms."""
    payload = redact(request.payload).text if isinstance(request.payload, str) else request.payload
    return replace(
        request,
        payload=payload,
        request_id=RequestId(stored_id(request.request_id)),
        tenant=stored_tenant(request.tenant),
        domain=_clean(request.domain),
        language=_clean(request.language),
        decision=_clean(request.decision) if request.decision else request.decision,
        label=_clean_label(request.label) if request.label else request.label,
        model_version=(
            _clean(request.model_version) if request.model_version else request.model_version
        ),
        time=request.time.astimezone(UTC),
    )


@lru_cache(maxsize=4096)
def _clean(name: str) -> str:
    return clean(name).text


def _clean_label(label: str) -> str:
    """Return a label without personal data: a class, or what is as long as a text, or a file."""
    if label.startswith("data:"):  # numbers: an image's or an array's
        return label
    return _clean(label) if len(label) <= SHORT else redact(label).text


def stored_tenant(name: str) -> str:
    """Return a tenant's name as it is stored: a pseudonym where it is personal data."""
    return _pseudonym(name) if _is_personal(name) else name


def stored_id(name: str) -> str:
    """Return a request's id as it is stored; as each is another one, patterns alone read it."""
    return _pseudonym(name) if redact(name).counts else name


def names_in_store(name: str) -> tuple[str, ...]:
    """Return everything that a name may be stored as: under this key, older ones, none, as it is.

    What a later version recognizes was stored as it is before.
    """
    keys = settings().pseudonym_keys().keys()
    return (name, *(pseudonym(name, key) for key in keys), unkeyed(name))


@lru_cache(maxsize=4096)  # a tenant's name comes with each of its requests
def _is_personal(name: str) -> bool:
    return bool(clean(name).counts)


def _pseudonym(name: str) -> str:
    return pseudonym(name, _key(settings().pseudonym_keys().stamp))


@lru_cache(maxsize=4)
def _key(stamp: tuple[str, int]) -> bytes:
    """Return the newest key of the file with this stamp."""
    return PseudonymKeys(Path(stamp[0])).keys()[0]
