"""New weights are a reason to rebuild though the traffic stays, and the decision says so."""

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from infra.settings import Settings
from tasks.records import Action, Health
from tests.integration.conftest import EXAMPLES, START, images, serve

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the source of the model, to be changed."""
    made = tmp_path_factory.mktemp("source") / "digits"
    shutil.copytree(EXAMPLES / "digits", made)
    return made


def trained_on(folder: Path) -> None:
    """Register the model with slightly other weights."""
    from tasks.models.catalog import register

    weights = load_file(folder / "weights.safetensors")
    name = max(weights, key=lambda one: weights[one].size)
    save_file({**weights, name: weights[name] * np.float32(1.001)}, folder / "weights.safetensors")
    register(folder / "model.yaml")


def test_changed_weights_are_told_by_their_digest_and_the_champion_is_rebuilt(
    loop: Settings, folder: Path
) -> None:
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from flows.queries.explain import explain
    from tasks.models.catalog import register

    register(folder / "model.yaml")
    serve(loop, "digits", 0, images(0.5, 1.0))
    assert maintenance("digits").status is Status.PROMOTED
    trained_on(folder)
    serve(loop, "digits", 1, images(0.5, 1.0, seed=1))
    outcome = maintenance("digits")
    assert outcome.status is Status.PROMOTED, outcome.reason
    assert outcome.decision is not None
    assert outcome.decision.action is Action.RECALIBRATE
    assert (
        outcome.decision.reasons[0]
        == "The model's weights changed since the champion was built: recalibrate."
    )
    told = explain("digits")
    assert told.attribution == "weights changed"
    assert told.inputs["source"]
    assert {one.detector for one in told.evidence} >= {"input"}
    serve(loop, "digits", 2, images(0.5, 1.0, seed=2))
    after = maintenance("digits")
    assert after.status is Status.KEPT, after.reason
    assert after.decision is not None
    health = {one.detector: one.health for one in after.decision.results}
    assert health["weights"] is Health.FINE


def test_changed_weights_are_acted_on_though_the_window_was_decided_before(
    loop: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from flows.queries.explain import explain

    def dies(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    decided = explain("digits")
    assert decided.action == Action.KEEP
    trained_on(folder)
    with monkeypatch.context() as patched:
        patched.setattr("flows.maintenance.requantize", dies)
        with pytest.raises(RuntimeError, match="killed"):
            maintenance("digits")
    outcome = maintenance("digits")
    assert outcome.status is Status.PROMOTED, (
        f"what was decided and not begun is taken up: {outcome.reason}"
    )
    again = explain("digits", decided.window)
    assert (again.number > decided.number, again.attribution) == (True, "weights changed")
    assert maintenance("digits").status is Status.ALREADY_DONE


def test_changed_weights_are_acted_on_in_a_thin_window_with_the_newest_sample(
    loop: Settings, folder: Path
) -> None:
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from flows.queries.explain import explain

    newest = explain("digits").window
    serve(loop, "digits", 3, images(0.5, 1.0, seed=3)[:9])
    assert maintenance("digits").status is Status.INCONCLUSIVE
    assert explain("digits").window != newest
    trained_on(folder)
    outcome = maintenance("digits")
    assert outcome.status is Status.PROMOTED, outcome.reason
    assert outcome.decision is not None
    assert [one.detector for one in outcome.decision.results] == ["weights"]
    assert outcome.decision.window_digest == newest
    assert "The window holds 9 requests" in outcome.decision.reasons[-1]
    assert maintenance("digits").status is Status.INCONCLUSIVE


def test_a_window_too_thin_to_tell_is_a_decision_recorded_once_and_explained(
    loop: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import printing
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from flows.queries.explain import explain
    from flows.queries.views import history
    from tasks.models.catalog import open_model
    from tasks.promotion.decisions import past_decisions
    from tasks.promotion.ledger import EntryKind

    looked_at = past_decisions(history("digits"))
    serve(loop, "digits", 4, images(0.5, 1.0, seed=4)[:7])
    outcome = maintenance("digits")
    assert outcome.status is Status.INCONCLUSIVE
    recorded = history("digits")
    assert (recorded[-1].kind, recorded[-1].reason) == (EntryKind.DECIDED, outcome.reason)
    assert past_decisions(recorded) == looked_at
    told = explain("digits")
    assert (told.action, told.rows, told.window) == (
        Action.INCONCLUSIVE,
        7,
        recorded[-1].details["window"],
    )
    assert told.inputs["source"] == open_model("digits").source
    printing.explanation(told)
    shown = " ".join(capsys.readouterr().out.split())
    assert "The window holds 7 requests, and 64 are needed to look at it: no decision." in shown
    assert maintenance("digits").status is Status.INCONCLUSIVE
    assert history("digits") == recorded
    serve(loop, "digits", 4, images(0.5, 1.0, seed=4)[:8])
    maintenance("digits")
    assert explain("digits").rows == 8


def test_a_model_without_traffic_is_told_to_have_none(loop: Settings, folder: Path) -> None:
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from flows.queries.explain import explain
    from tasks.models.catalog import register

    spec = (folder / "model.yaml").read_text().replace("name: digits", "name: unused")
    (folder / "unused.yaml").write_text(spec)
    register(folder / "unused.yaml")
    assert maintenance("unused").status is Status.INCONCLUSIVE
    told = explain("unused")
    assert (told.action, told.rows, told.inputs["champion"]) == (Action.INCONCLUSIVE, 0, None)


def test_changed_weights_are_acted_on_with_the_pool_where_no_sample_is_left(
    loop: Settings, folder: Path
) -> None:
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from tasks.models.catalog import open_model
    from tasks.traffic.storage.codec import from_parquet

    store = loop.store()
    for key in list(store.list("windows/digits/")):
        store.delete(key)
    trained_on(folder)
    outcome = maintenance("digits", START + timedelta(days=300))  # hours without a request
    assert outcome.status is Status.PROMOTED, outcome.reason
    (key,) = (key for key in store.list("windows/digits/") if key.endswith(".parquet"))
    used = {one.request_id for one in from_parquet(store.get(key), where=key)}
    assert used <= {one.request_id for one in open_model("digits").pool}
