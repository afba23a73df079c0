"""Incidents of serving in a ledger: traffic left the champion, and came back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from infra.canonical import Json
from tasks.promotion.ledger import EntryKind, LedgerEntry, body

ACTOR = "gateway"
"""Who is named where the gateway acted by itself."""
_KINDS = frozenset({EntryKind.FELL_BACK, EntryKind.RETURNED})


@dataclass(frozen=True, slots=True)
class ServingIncident:
    """Traffic that left a release."""

    release: str  # digest of the release that it left
    to: str  # the tier that answers instead
    since: datetime  # UTC
    reason: str
    digest: str  # of the entry


def open_incident(entries: Sequence[LedgerEntry], release: str) -> ServingIncident | None:
    """Return the incident of a release that traffic has not come back to; None where it is well."""
    newest = next((entry for entry in reversed(entries) if _is_about(entry, release)), None)
    if newest is None or newest.kind is not EntryKind.FELL_BACK:
        return None
    return _incident(newest)


def newest(entries: Sequence[LedgerEntry], release: str) -> str:
    """Return the digest of the newest entry about a release's traffic; empty where none is."""
    return next((entry.digest for entry in reversed(entries) if _is_about(entry, release)), "")


def latest_incident(entries: Sequence[LedgerEntry]) -> ServingIncident | None:
    """Return the newest incident, over or not."""
    falls = (entry for entry in reversed(entries) if entry.kind is EntryKind.FELL_BACK)
    newest = next(falls, None)
    return None if newest is None else _incident(newest)


def falls_of(entries: Sequence[LedgerEntry], release: str) -> int:
    """Return how many times traffic has left a release."""
    return sum(entry.kind is EntryKind.FELL_BACK and _is_about(entry, release) for entry in entries)


def fell_back(
    entries: Sequence[LedgerEntry], release: str, to: str, limits: Sequence[str], reason: str
) -> Mapping[str, Json] | None:
    """Return the incident; None where it stands open already, as another replica wrote it."""
    if open_incident(entries, release) is not None:
        return None
    details: dict[str, Json] = {"serving": release, "to": to, "limits": list(limits)}
    return body(EntryKind.FELL_BACK, actor=ACTOR, reason=reason, details=details)


def returned(
    entries: Sequence[LedgerEntry], release: str, reason: str
) -> Mapping[str, Json] | None:
    """Return that traffic came back to a release; None where it is back already."""
    if open_incident(entries, release) is None:
        return None
    return body(EntryKind.RETURNED, actor=ACTOR, reason=reason, details={"serving": release})


def _is_about(entry: LedgerEntry, release: str) -> bool:
    return entry.kind in _KINDS and entry.details.get("serving") == release


def _incident(entry: LedgerEntry) -> ServingIncident:
    details = entry.details
    return ServingIncident(
        str(details.get("serving")), str(details.get("to")), entry.time, entry.reason, entry.digest
    )
