"""The shipped speech recognizer through the loop: judged by transcripts, watched in noise."""

from dataclasses import replace

import numpy as np
import pytest

from examples.speech.synthesis import Place, record
from infra.settings import Settings
from tasks.records import Request, Verdict
from tests.integration.conftest import EXAMPLES, serve

pytestmark = pytest.mark.timeout(400)


def heard(place: Place, domain: str) -> list[Request]:
    """Record the shipped traffic again at another place."""
    from tasks.models.corpus import read_corpus

    rng = np.random.default_rng(5)
    rows = read_corpus((EXAMPLES / "speech" / "traffic.parquet").read_bytes(), where="traffic")
    return [
        replace(row, payload=record(np.asarray(row.payload), place, rng), domain=domain)
        for row in rows
    ]


@pytest.fixture(scope="module")
def speech(loop: Settings) -> Settings:
    from tasks.models.catalog import register

    register(EXAMPLES / "speech" / "model.yaml")
    serve(loop, "digits-spoken", 0, heard(Place(1.0, 40.0), "studio"))
    return loop


def test_a_recognizer_is_quantized_judged_by_its_transcripts_and_promoted(speech: Settings) -> None:
    from flows.outcomes import Status
    from flows.requantize import requantize

    outcome = requantize("digits-spoken", recipe="int8-smooth")
    assert outcome.status is Status.PROMOTED, outcome.reason
    assert outcome.release is not None
    files = set(speech.release("digits-spoken", outcome.release).files)
    assert {"engines/onnxruntime-cpu/plan", "engines/tensorrt-rtx/plan"} <= files
    report = next(
        one
        for candidate in outcome.candidates
        for one in candidate.reports
        if one.target == "onnxruntime-cpu"
    )
    judged = {
        gate.metric for gate in report.gates if gate.binding and gate.verdict is Verdict.PASSED
    }
    assert judged >= {"wer-increase", "token-error-rate", "agreement"}
    right = next(
        gate for gate in report.gates if (gate.metric, gate.group) == ("wer-reference", "all")
    )
    assert right.estimate is not None
    assert right.estimate.value < 0.1, "full precision solves its task"


def test_maintenance_watches_far_and_noisy_speech_and_records_its_decision(
    speech: Settings,
) -> None:
    from flows.maintenance import maintenance
    from tasks.promotion import journal
    from tasks.promotion.ledger import EntryKind

    serve(speech, "digits-spoken", 1, heard(Place(1 / 16, 14.0), "far"))
    outcome = maintenance("digits-spoken")
    assert outcome.decision is not None
    results = {one.detector: one for one in outcome.decision.results}
    assert {"input", "range", "fidelity", "control"} <= set(results)
    assert "agreement to full precision is" in results["fidelity"].findings[0].text
    assert "word-accuracy is" in results["control"].findings[0].text
    assert results["range"].count == results["fidelity"].count > 0
    decided = [entry for entry in journal.read("digits-spoken") if entry.kind is EntryKind.DECIDED]
    assert decided[-1].details["action"] == outcome.decision.action
