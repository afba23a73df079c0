"""How a decision is written to the ledger, and what later decisions read back of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from math import isfinite

from infra.canonical import Json
from infra.identifiers import Digest
from tasks.promotion.ledger import EntryKind, LedgerEntry, asked_since
from tasks.records import (
    STORED_DETECTORS,
    Action,
    Decision,
    DetectorResult,
    Finding,
    Health,
    PastDecision,
    SampleRef,
    ThinWindow,
)

_SUBJECTS = 50  # of one detector: an entry stays small however many layers a model has
_WORST = (Health.DEGRADED, Health.INCONCLUSIVE, Health.FINE)


def decision_details(decision: Decision, window: SampleRef | ThinWindow) -> dict[str, Json]:
    """Return a decision as an entry's details.

    Figures that are not finite are left out, because JSON has none.
    """
    return {
        "rows": window.rows,
        "sample": window.key if isinstance(window, SampleRef) else None,
        "window": decision.window_digest,
        "start": window.start,
        "end": window.end,
        "action": decision.action.value,
        "reasons": list(decision.reasons),
        "attribution": decision.attribution,
        "held": decision.held,
        STORED_DETECTORS: {
            detector: _worst(detector, decision.results).value for detector in _detectors(decision)
        },
        "exceeded": {
            detector: _exceeded(detector, decision.results) for detector in _detectors(decision)
        },
        "figures": {
            detector: row
            for detector in _detectors(decision)
            if (row := _figures(detector, decision.results))
        },
    }


def past_decisions(
    entries: Sequence[LedgerEntry], *, before: int | None = None
) -> tuple[PastDecision, ...]:
    """Return the ledger's decisions, oldest first; with `before`, those ahead of that number.

    A window that was too thin is none of them: it confirms nothing, ends no alarm, and no cooldown
    waits for it.
    """
    decided = (
        entry for entry in entries if entry.kind is EntryKind.DECIDED and not was_thin(entry)
    )
    return tuple(_past(entry) for entry in decided if before is None or entry.number < before)


def was_thin(decided: LedgerEntry) -> bool:
    """Return whether a decision is about a window too thin to be looked at.

    No sample of such a window was stored.
    """
    return decided.details.get("sample", "") is None  # entries of earlier versions do not say


def nothing_left(
    decided: LedgerEntry, entries: Sequence[LedgerEntry], *, champion: str, acted: bool
) -> bool:
    """Return whether what a decision asked for was done: its window needs no second look.

    `acted`: a run took the window's build up. Without one, another `champion` than it was about,
    back by a rollback say, has yet to be judged.
    """
    details, window = decided.details, str(decided.details.get("window"))
    same = _mapping(details.get("champion")).get("version") == champion
    if not acted and (
        not same or details.get("builds", True)
    ):  # entries of earlier versions do not say
        return False
    outgrown = _mapping(details.get(STORED_DETECTORS)).get("control") == Health.DEGRADED.value
    asks = outgrown and details.get("action") != Action.HOLD.value
    return not asks or asked_since(entries, window, decided.number)


def recorded(decided: LedgerEntry) -> Decision:
    """Return the decision of an entry; the results themselves are not kept there."""
    details = decided.details
    reasons = details.get("reasons")
    return Decision(
        Action(str(details.get("action"))),
        tuple(str(reason) for reason in reasons)
        if isinstance(reasons, list)
        else (decided.reason,),
        (),
        Digest(str(details.get("window"))),
        str(details.get("attribution") or ""),
        str(details.get("held") or ""),
    )


def _past(entry: LedgerEntry) -> PastDecision:
    """Return what later decisions need of an entry; those of earlier versions lack some details."""
    details = entry.details
    champion, end = _mapping(details.get("champion")), details.get("end")
    detectors = _mapping(details.get(STORED_DETECTORS))
    subjects = {
        detector: names
        for detector, names in _mapping(details.get("exceeded")).items()
        if isinstance(names, list)
    }
    rows = {
        detector: row
        for detector, row in _mapping(details.get("figures")).items()
        if isinstance(row, list)
    }
    return PastDecision(
        number=entry.number,
        window=str(details.get("window")),
        end=datetime.fromisoformat(end) if isinstance(end, str) and end else None,
        action=Action(str(details.get("action"))),
        champion=str(champion["version"]) if "version" in champion else None,
        source=str(details.get("source", "")),
        builds=bool(details.get("builds", False)),
        health={detector: Health(str(value)) for detector, value in detectors.items()},
        exceeded={
            detector: tuple(str(name) for name in names) for detector, names in subjects.items()
        },
        figures={
            detector: (str(row[0]), float(row[1]), float(row[2])) for detector, row in rows.items()
        },
    )


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}


def _detectors(decision: Decision) -> list[str]:
    return list(dict.fromkeys(result.detector for result in decision.results))


def _worst(detector: str, results: Sequence[DetectorResult]) -> Health:
    healths = {result.health for result in results if result.detector == detector}
    return next(health for health in _WORST if health in healths)


def _findings(detector: str, results: Sequence[DetectorResult]) -> list[Finding]:
    return [
        finding for result in results if result.detector == detector for finding in result.findings
    ]


def _exceeded(detector: str, results: Sequence[DetectorResult]) -> Sequence[Json]:
    return [finding.subject for finding in _findings(detector, results) if finding.exceeded][
        :_SUBJECTS
    ]


def _figures(detector: str, results: Sequence[DetectorResult]) -> list[Json]:
    """Return subject, value and limit of what mattered most.

    That is the first that exceeded its limit, else the first.
    """
    findings = _findings(detector, results)
    exceeded = (finding for finding in findings if finding.exceeded)
    first = next(exceeded, findings[0] if findings else None)
    if first is None or not (isfinite(first.value) and isfinite(first.limit)):
        return []
    return [first.subject, first.value, first.limit]
