"""What served at a moment, with the evidence that the ledger and the bundle hold of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from infra.canonical import Json
from infra.errors import BadInput, NotFound
from infra.settings import settings
from tasks.promotion import journal
from tasks.promotion.audit.served import served_at
from tasks.promotion.ledger import LedgerEntry

GOLDEN = "golden/"
"""Where a bundle keeps the gates' reports."""


@dataclass(frozen=True, slots=True)
class ServedView:
    """The answer to: what served then?"""

    model: str
    at: str  # ISO 8601, UTC
    version: str | None
    release: str | None
    since: str
    until: str | None  # None: it still serves
    promotion: LedgerEntry  # or the rollback
    approval: LedgerEntry | None  # None: no person was asked
    decision: LedgerEntry | None  # None: somebody ordered it, or it was the first
    evidence: Mapping[str, Json]  # of the bundle: verdicts, calibration, digests of the reports


def moment_of(text: str) -> datetime:
    """Read a moment; one without a zone is in UTC.

    Raises `BadInput`.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{text!r} is no moment: write it as 2026-03-01T12:00:00+00:00") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def served(model: str, at: str) -> ServedView:
    """Return who served a model at a moment; raises `BadInput`, `NotFound`, `Tampered`."""
    moment = moment_of(at)
    answer = served_at(journal.read(model), moment)
    reign = answer.reign
    return ServedView(
        model,
        moment.isoformat(),
        reign.version,
        reign.release,
        answer.since.isoformat(),
        answer.until.isoformat() if answer.until else None,
        reign,
        answer.approved,
        answer.decided,
        _evidence(model, reign.release),
    )


def _evidence(model: str, digest: str | None) -> Mapping[str, Json]:
    """Return what a bundle says of its making; why not, where it is gone."""
    if digest is None:
        return {"bundle": "the entry names none"}
    try:
        release = settings().release(model, digest)
    except NotFound:
        return {"bundle": "no longer stored: see the ledger's entries of the kind collected"}
    kept = ("verdicts", "calibration", "recipe", "window", "libraries")
    reports: dict[str, Json] = {
        name: fact.sha256 for name, fact in release.files.items() if name.startswith(GOLDEN)
    }
    facts = {name: release.facts[name] for name in kept if name in release.facts}
    return {**facts, "reports": reports, "signed by": release.signed_by}
