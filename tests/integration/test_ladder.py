"""The whole ladder on a small model: refused at once, killed and continued, logged and drawn."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from infra.errors import Refused
from infra.settings import Settings
from tests.integration.conftest import EXAMPLES, images, serve

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def digits(loop: Settings) -> Settings:
    from tasks.models.catalog import register

    register(EXAMPLES / "digits" / "model.yaml")
    serve(loop, "digits", 0, images(0.5, 1.0))
    return loop


def verdicts(settings: Settings) -> dict[str, float]:
    """Return every stored verdict, and when it was written."""
    folder = settings.root / "store" / "verdicts" / "digits"
    return {path.name: path.stat().st_mtime for path in folder.glob("*.json")}


def test_a_recipe_that_a_target_cannot_express_is_refused_before_anything_is_written(
    digits: Settings,
) -> None:
    from flows.requantize import requantize

    before = set(digits.store().list(""))
    with pytest.raises(Refused, match=r"int8-dynamic.*tensorrt-rtx.*DynamicQuantizeLinear"):
        requantize("digits", recipe="int8-dynamic")
    assert set(digits.store().list("")) == before


def test_a_search_that_was_killed_goes_on_where_it_stopped(digits: Settings) -> None:
    from flows.outcomes import Status
    from flows.queries.views import history
    from flows.requantize import requantize
    from tasks.promotion.ledger import EntryKind

    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "requantize",
        "digits",
        "--search",
        "full",
        "--json",
    ]
    environment = {**os.environ, "REQUANT_PREFECT_API_URL": os.environ["PREFECT_API_URL"]}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as run:
        deadline = time.monotonic() + 120
        while len(verdicts(digits)) < 3 and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        run.wait(10)
        assert run.returncode == -signal.SIGKILL
    finished = verdicts(digits)
    assert len(finished) >= 3
    outcome = requantize("digits", search="full")
    assert outcome.status is Status.PROMOTED, outcome.reason
    after = verdicts(digits)
    assert len(after) > len(finished)  # it had not been done
    assert {name: after[name] for name in finished} == finished  # and nothing was judged twice
    closed = [entry for entry in history("digits") if entry.kind is EntryKind.FINISHED]
    assert [entry.details["failed"] for entry in closed] == [True, False]
    assert "killed" in closed[0].reason


def test_the_candidates_of_both_runs_shared_a_measurement_of_sensitivity_each_format(
    digits: Settings,
) -> None:
    from tasks.quantization.sensitivity.measure import parse_losses

    keys = list(digits.store().list("sensitivities/digits/"))
    assert len(keys) == 3  # INT8, and INT4 in blocks of 32 and of 128
    for key in keys:
        losses = parse_losses(digits.store().get(key), where=key)
        assert len(losses.parts) == 4
        assert losses.together > 0


def test_the_cheapest_candidate_that_passed_was_promoted(digits: Settings) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(digits.mlflow_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'digits'")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.kind = 'ladder'")
    candidates = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    assert len(candidates) == parent.data.metrics["candidates"] >= 8
    passed = [one for one in candidates if one.data.tags["verdict"] == "passed"]
    fastest = min(passed, key=lambda one: one.data.metrics["latency-ratio"])
    assert parent.data.tags["passed"] == fastest.info.run_name
    assert json.loads(fastest.data.params["name"]) == fastest.info.run_name
    assert all(
        {"loss", "size-ratio", "latency-ratio"} <= set(one.data.metrics) for one in candidates
    )
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {
        "front.png",
        "front.html",
    }
    pages = set(digits.store().list("reports/digits/"))
    assert sum(page.endswith(("front.png", "front.html")) for page in pages) == 2
