"""New weights are a reason to rebuild though the traffic stays the same, and the decision explains itself."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from infra.settings import Settings
from tasks.records import Action, Health
from tests.integration.conftest import EXAMPLES, images, serve

pytestmark = pytest.mark.timeout(300)


def test_changed_weights_are_told_by_their_digest_and_the_champion_is_rebuilt(loop: Settings, tmp_path: Path) -> None:
    from flows.explain import explain
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from tasks.models.catalog import register

    folder = tmp_path / "digits"
    shutil.copytree(EXAMPLES / "digits", folder)
    register(folder / "model.yaml")
    serve(loop, "digits", 0, images(0.5, 1.0))
    assert maintenance("digits").status is Status.PROMOTED
    weights = load_file(folder / "weights.safetensors")
    name = max(weights, key=lambda one: weights[one].size)
    save_file({**weights, name: weights[name] * np.float32(1.001)}, folder / "weights.safetensors")
    register(folder / "model.yaml")
    serve(loop, "digits", 1, images(0.5, 1.0, seed=1))
    outcome = maintenance("digits")
    assert outcome.status is Status.PROMOTED, outcome.reason
    assert outcome.decision is not None
    assert outcome.decision.action is Action.RECALIBRATE
    assert outcome.decision.reasons[0] == "The model's weights changed since the champion was built: recalibrate."
    told = explain("digits")
    assert told.attribution == "weights changed"
    assert told.inputs["source"]
    assert {one.lens for one in told.evidence} >= {"input"}
    serve(loop, "digits", 2, images(0.5, 1.0, seed=2))
    after = maintenance("digits")
    assert after.status is Status.KEPT, after.reason
    assert after.decision is not None
    health = {one.lens: one.health for one in after.decision.readings}
    assert health["weights"] is Health.FINE
