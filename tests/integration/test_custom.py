"""A model with inputs, outputs and metrics of its own, from its file to a promoted release."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from infra.errors import Refused
from infra.settings import Settings
from tasks.records import Record, Verdict
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


def test_a_file_type_classifier_is_taken_from_its_package_as_it_is(
    workspace: Settings, tmp_path: Path
) -> None:
    from tasks.models.catalog import register

    texts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))[:20]]
    payloads: list[Record] = [{"bytes": np.array(magika_bytes(text), np.int32)} for text in texts]
    spec = write_model(
        tmp_path,
        ranker(),
        payloads,
        name="magika",
        source="package:magika/models/standard_v3_3/model.onnx",
        metrics=[{"name": "agreement", "budget": 0.9}],
    )
    model = register(spec)
    assert model.layout is not None
    assert model.layout.tensors["bytes"].axes == (2048,)
    assert {len(case["target_label"]) for case in model.golden_records} == {214}


def magika_bytes(text: bytes) -> list[int]:
    """Return the first and the last 1,024 bytes, filled up with 256, as Magika reads a file."""
    stripped, fill = text.strip(), [256] * max(0, 1024 - len(text.strip()))
    return [*stripped[:1024], *fill, *fill, *stripped[-1024:]]


def test_metrics_of_ones_own_and_labels_are_judged_in_the_loop(
    loop: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.requantize import requantize
    from tasks.models.catalog import register

    (tmp_path / "requant_rank.py").write_text(
        "def moved(before, after, labels, domains):\n"
        "    return [float(abs(b['embedding_0'] - a['embedding_0']).max())\n"
        "            for b, a in zip(before, after)]\n"
        "def broken(before, after, labels, domains):\n"
        "    raise KeyError('score')\n"
    )
    own = [
        {"name": "moved", "function": "requant_rank:moved", "direction": "lower", "budget": 1.0},
        {"name": "wrong", "function": "requant_rank:broken", "direction": "lower", "budget": 1.0},
        {"name": "accuracy", "output": "fetch_name_0", "budget": 0.3},
    ]
    labels = [str(number % 3) for number in range(160)]
    folder = tmp_path / "model"
    spec = write_model(
        folder, ranker(), records(160, seed=5), labels=labels, name="ranker", metrics=own
    )
    with pytest.raises(Refused, match="requant_rank:moved is not trusted"):
        register(spec)
    trusting = loop.model_copy(update={"trusted_metrics": str(tmp_path)})
    monkeypatch.setattr("tasks.metrics.custom.trusted.settings", lambda: trusting)
    register(spec)
    outcome = requantize("ranker", recipe="int8-smooth")
    assert not outcome.candidates, "a metric that breaks on full precision lets nothing through"
    assert "raised KeyError: 'score'" in outcome.reason
    spec.write_text(yaml.safe_dump(yaml.safe_load(spec.read_text()) | {"metrics": own[::2]}))
    register(spec)
    outcome = requantize("ranker", recipe="int8-smooth")
    (report,) = outcome.candidates[0].reports
    verdicts = {gate.metric: gate.verdict for gate in report.gates if gate.group == "all"}
    assert verdicts["moved"] is Verdict.PASSED
    assert verdicts["accuracy-drop"] is Verdict.PASSED
