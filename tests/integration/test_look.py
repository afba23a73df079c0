"""The path that published figures take decides as the flow does, to the last digit."""

import json
import shutil
from dataclasses import asdict, replace
from functools import partial

import pytest
import yaml

from benchmarks.evidence.looking import LiveWindow, TrialChampion, look_at
from infra.settings import Settings
from tasks.records import Action, Decision, ReleaseRef, SampleRef
from tests.integration.conftest import EXAMPLES, images, serve

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def digits(loop: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    from flows.maintenance import maintenance
    from tasks.models.catalog import register

    folder = tmp_path_factory.mktemp("digits") / "digits"
    shutil.copytree(EXAMPLES / "digits", folder)
    spec = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump(spec | {"targets": ["onnxruntime-cpu"]}))
    register(folder / "model.yaml")
    serve(loop, "digits", 0, images(0.5, 1.0))
    outcome = maintenance("digits")
    assert outcome.release is not None, outcome.reason
    return loop


def figures(decision: Decision) -> bytes:
    """Everything that a decision says but where the flow stored what it rests on."""
    results = tuple(replace(one, evidence="", reference="") for one in decision.results)
    return json.dumps(asdict(replace(decision, results=results)), sort_keys=True).encode()


def test_the_map_decides_as_the_flow_does(digits: Settings) -> None:

    from flows.maintenance import maintenance
    from tasks.drift import loading
    from tasks.drift.detectors.labelled import golden_correct
    from tasks.models.catalog import open_model
    from tasks.promotion import journal
    from tasks.promotion.decisions import past_decisions
    from tasks.promotion.history import champion_of
    from tasks.sampling.steps import sample_window
    from tasks.traffic.storage.samples import read_requests

    model, reference = open_model("digits"), champion_of("digits")
    assert reference is not None
    champion, evidence, actions = deployed(reference), None, []
    quiet, bright = images(0.5, 1.0, seed=1), images(4.0, 8.0, seed=2)
    for day, requests in enumerate((quiet, bright), start=1):
        serve(digits, "digits", day, requests)
        past = past_decisions(journal.read("digits"))
        outcome, window = maintenance("digits"), sample_window.fn("digits")
        assert isinstance(window, SampleRef)
        assert outcome.decision is not None
        live = LiveWindow(
            window.digest,
            read_requests(window.key),
            partial(golden_correct, model, window.groups),
            loading.all_traffic(window, reference),
        )
        decision, evidence = look_at(model, champion, live, past, evidence)
        assert figures(decision) == figures(outcome.decision)
        actions.append(decision.action)
    assert actions == [Action.KEEP, Action.RECALIBRATE]


def deployed(reference: ReleaseRef) -> TrialChampion:
    from infra.engines.released import load_released
    from tasks.drift import loading
    from tasks.models.catalog import open_model

    model = open_model("digits")
    return TrialChampion(
        reference.version,
        loading.built_from(model, reference) or "",
        load_released(loading.release_of(reference), model.spec.targets),
        loading.deployed(reference),
        loading.calibrated_on(reference),
    )
