"""The evidence documents of a champion in the object store: numbered, each created only once.

evidence/MODEL/CHAMPION-SOURCE/DETECTOR/00000007.json is the state after seven windows. Two runs
that count the same window at once race for one number; the loser reads again and finds the window
counted.
"""

from __future__ import annotations

from collections.abc import Callable

from infra.canonical import Json, sha256
from infra.errors import AlreadyExists, Unavailable
from infra.settings import settings
from infra.stores import layout
from tasks.drift.decision import recalibrates
from tasks.drift.evidence import Evidence, dump_evidence, parse_evidence
from tasks.models.catalog import open_model
from tasks.records import Decision, SampleRef, ThinWindow

RACES = 50


def prefix(model: str, champion: str, source: str, detector: str) -> str:
    """Return where a detector keeps what it knows about one champion and graph (digests)."""
    return layout.evidence_folder(model, champion, source, detector)


def newest(place: str) -> tuple[Evidence, str]:
    """Return the newest state and its key; before the first window nothing is known (key "")."""
    keys = [key for key in settings().store().list(place) if key.endswith(".json")]
    if not keys:
        return Evidence(), ""
    return parse_evidence(settings().store().get(keys[-1]), where=keys[-1]), keys[-1]


def appended(place: str, add: Callable[[Evidence], Evidence]) -> tuple[Evidence, str]:
    """Append the state that `add` makes of the newest; one that did not change is not written.

    Returns:
        The state and its key.

    Raises:
        Unavailable: When other runs were faster too many times.
    """
    for _ in range(RACES):
        before, key = newest(place)
        after = add(before)
        if after == before:
            return before, key
        target = (
            f"{place}{int(key.rsplit('/', 1)[-1].removesuffix('.json')) + 1 if key else 1:08d}.json"
        )
        try:
            settings().store().create(target, dump_evidence(after))
        except AlreadyExists:
            continue
        return after, target
    raise Unavailable(
        f"the evidence at {place} lost {RACES} races in a row: fewer runs at once, then retry"
    )


def digest(key: str) -> str:
    """Return the SHA-256 of a state, for the ledger; "" where there is none."""
    return sha256(settings().store().get(key)) if key else ""


def basis(window: SampleRef | ThinWindow, decision: Decision) -> dict[str, Json]:
    """Return what a decision rests on, by digest: graph, references and evidence documents."""
    return {
        "source": open_model(window.model).source,
        "builds": recalibrates(decision),
        "references": {
            result.detector: result.reference for result in decision.results if result.reference
        },
        "evidence": {
            result.detector: {
                "key": result.evidence,
                "digest": digest(result.evidence),
            }
            for result in decision.results
            if result.evidence
        },
    }
