"""The shipped image-text encoder through the loop: judged zero-shot, watched as light changes."""

from dataclasses import replace

import numpy as np
import pytest

from examples.vision.shapes import Sight, see
from infra.settings import Settings
from tasks.records import Action, Health, Request, Verdict
from tests.integration.conftest import EXAMPLES, serve

pytestmark = pytest.mark.timeout(400)


def seen(exposure: float, blur: float, domain: str, *, labelled: bool = True) -> list[Request]:
    """Render the shipped traffic under another light and lens."""
    from tasks.models.corpus import read_corpus

    rows = read_corpus((EXAMPLES / "vision" / "traffic.parquet").read_bytes(), where="traffic")
    sight = Sight(exposure, blur)
    return [
        replace(
            row,
            payload=see(np.asarray(row.payload), sight),
            domain=domain,
            language="none",
            label=row.label if labelled else None,
        )
        for row in rows
    ]


@pytest.fixture(scope="module")
def vision(loop: Settings) -> Settings:
    from tasks.models.catalog import register

    register(EXAMPLES / "vision" / "model.yaml")
    serve(loop, "shapes", 0, seen(0.5, 0.0, "indoor"))
    return loop


def test_an_image_encoder_is_quantized_judged_zero_shot_and_promoted(vision: Settings) -> None:
    from flows.outcomes import Status
    from flows.requantize import requantize

    outcome = requantize("shapes", recipe="int8-smooth")
    assert outcome.status is Status.PROMOTED, outcome.reason
    assert outcome.release is not None
    files = set(vision.release("shapes", outcome.release).files)
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
    assert judged >= {"cosine", "flips", "accuracy-drop"}
    right = next(
        gate for gate in report.gates if (gate.metric, gate.group) == ("accuracy-reference", "all")
    )
    assert right.estimate is not None
    assert right.estimate.value > 0.9, "full precision solves its task zero-shot"


def test_brighter_and_blurred_images_move_its_ranges_and_new_scales_are_judged(
    vision: Settings,
) -> None:
    from flows.maintenance import maintenance

    serve(vision, "shapes", 1, seen(2.0, 1.0, "blurred"))
    outcome = maintenance("shapes")
    assert outcome.decision is not None
    results = {one.detector: one for one in outcome.decision.results}
    assert results["range"].health is Health.DEGRADED
    assert "cosine to full precision is" in results["fidelity"].findings[0].text
    assert results["control"].health is Health.FINE
    assert outcome.decision.action is Action.RECALIBRATE
    assert [candidate.recipe for candidate in outcome.candidates][:1] == ["resmooth"]


def test_what_full_precision_cannot_recognise_asks_for_retraining(vision: Settings) -> None:
    from flows.maintenance import maintenance

    labels = {one.label for one in seen(1.0, 0.0, "daylight")}
    after = dict(
        zip(sorted(map(str, labels)), np.roll(sorted(map(str, labels)), 1).tolist(), strict=True)
    )
    serve(
        vision,
        "shapes",
        2,
        [replace(one, label=after[str(one.label)]) for one in seen(1.0, 0.0, "indoor")],
    )
    outcome = maintenance("shapes")
    assert outcome.decision is not None
    assert outcome.decision.action is Action.REQUEST_RETRAINING
