"""Stored traffic names nobody (ADR 38).

Texts are redacted, and ids that are personal data become pseudonyms.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from functools import lru_cache
from hashlib import sha256

from infra.identifiers import RequestId
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
        request_id=RequestId(_pseudonym(request.request_id)),
        tenant=_pseudonym(request.tenant),
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
    return redact(name).text


def _clean_label(label: str) -> str:
    """Return a label without personal data: a class, or what is as long as a text, or a file."""
    if label.startswith("data:"):  # numbers: an image's or an array's
        return label
    return _clean(label) if len(label) <= SHORT else redact(label).text


@lru_cache(maxsize=4096)  # a tenant's name comes with each of its requests
def _pseudonym(name: str) -> str:
    return f"redacted-{sha256(name.encode()).hexdigest()[:16]}" if redact(name).counts else name
