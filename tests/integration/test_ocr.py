"""PP-OCR's three networks as their package ships them: pictures in, maps, turns and text out."""

from pathlib import Path

import numpy as np
import pytest

from examples.ocr.render import SHIPPED, SIGHTS, requests
from infra.settings import Settings
from tasks.records import Verdict
from tests.integration.conftest import EXAMPLES, serve

pytestmark = pytest.mark.timeout(500)
SPEC: Path = EXAMPLES / "ocr" / "model.yaml"


def test_it_is_registered_as_shipped_and_reads_what_was_rendered(workspace: Settings) -> None:
    from tasks.metrics.custom.labelled import character_error_rate
    from tasks.metrics.custom.options import Options
    from tasks.models.catalog import register
    from tasks.models.custom.inputs import run_records
    from tasks.models.inputs import record_inputs

    model = register(SPEC)
    options = Options(charset=model.charsets["cer"])
    lines = requests(tuple(SIGHTS), 14, seed=9)
    outputs = run_records(
        model.reference, record_inputs(model.inputs), [item.payload for item in lines]
    )
    errors = [
        character_error_rate(read, item.label or "", options)
        for read, item in zip(outputs, lines, strict=True)
    ]
    assert np.mean(errors) < 0.05


@pytest.mark.parametrize(("network", "least"), [("detection", 0.7), ("orientation", 0.9)])
def test_the_other_networks_are_registered_as_shipped_and_right(
    workspace: Settings, network: str, least: float
) -> None:
    from tasks.drift.detectors.labelled import golden_correct, live
    from tasks.models.catalog import register
    from tasks.quantization.loading import needed_memory

    model = register(EXAMPLES / "ocr" / network / "model.yaml")
    assert needed_memory(model) < 2e9  # by the sizes of its pages, no number of tokens
    assert golden_correct(model, ()).mean() > least
    assert len(live(model, model.replay)) == len(model.replay)


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_its_int8_is_judged_by_its_character_error_rate(loop: Settings) -> None:
    from flows.outcomes import Status
    from flows.requantize import requantize
    from tasks.models.catalog import register

    model = register(SPEC)
    serve(loop, "ocr", 0, requests(SHIPPED, 96, seed=6))
    outcome = requantize("ocr", recipe="int8-smooth")
    (report,) = outcome.candidates[0].reports
    gates = {gate.metric: gate for gate in report.gates if gate.group == "all"}
    judged = [case for case in model.golden.cases if case.domain in SHIPPED]
    assert gates["cer-increase"].count == len(judged) == 400
    assert gates["cer-increase"].estimate is not None
    passed = all(gate.verdict is Verdict.PASSED for gate in report.gates if gate.binding)
    assert (outcome.status is Status.PROMOTED) is passed, outcome.reason
