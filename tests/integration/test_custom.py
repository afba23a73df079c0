"""A model with inputs, outputs and metrics of its own, from its file to a promoted release."""

import json
from pathlib import Path

import pytest

from infra.settings import Settings
from tasks.records import Verdict
from tests.custom_models import ranker, records, write_model
from tests.integration.conftest import START

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def served(loop: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Register the ranker and import a day of JSON Lines."""
    from flows.commands.imports import take_in
    from tasks.models.catalog import register

    folder = tmp_path_factory.mktemp("ranker")
    register(write_model(folder, ranker(), records(160)))
    lines = [
        json.dumps(
            {
                "request_id": f"live-{number}",
                "time": START.replace(minute=number % 60).isoformat(),
                "tenant": f"t{number % 5}",
                "domain": ("shop", "search")[number % 2],
                "language": "en",
                "tensors": {name: value.tolist() for name, value in record.items()},
            }
        )
        for number, record in enumerate(records(120, seed=2))
    ]
    path = Path(folder) / "day.jsonl"
    path.write_text("\n".join(lines))
    taken = take_in(str(path), "ranker")
    assert (taken.accepted, taken.rejected) == (120, 0), taken.reasons
    return loop


def test_a_model_of_two_inputs_and_outputs_is_quantized_judged_and_promoted(
    served: Settings,
) -> None:
    from flows.outcomes import Status
    from flows.requantize import requantize

    outcome = requantize("ranker", recipe="int8-smooth")
    assert outcome.status is Status.PROMOTED, outcome.reason
    gates = [
        gate
        for candidate in outcome.candidates
        for report in candidate.reports
        for gate in report.gates
    ]
    judged = {(gate.metric, gate.group) for gate in gates if gate.verdict is Verdict.PASSED}
    assert {("cosine", "all"), ("cosine", "domain=shop")} <= judged


def test_its_champion_is_watched_on_what_users_send(served: Settings) -> None:
    from flows.maintenance import maintenance

    outcome = maintenance("ranker")
    assert outcome.decision is not None
    texts = [finding.text for item in outcome.decision.results for finding in item.findings]
    assert any("features mean" in text for text in texts)
    assert any("word ids maximum" in text for text in texts)
