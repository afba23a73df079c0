"""What a decision rests on besides its window, named by digest."""

from infra.canonical import Json
from tasks.drift import evidence_store
from tasks.drift.decision import recalibrates
from tasks.models.catalog import open_model
from tasks.records import Decision, SampleRef, ThinWindow


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
                "digest": evidence_store.digest(result.evidence),
            }
            for result in decision.results
            if result.evidence
        },
    }
