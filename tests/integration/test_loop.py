"""The whole loop on a small model, with a real Prefect server, MLflow, store and engines.

It is one story, in order.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from flows.outcomes import RunOutcome
from infra.canonical import sha256
from infra.errors import Refused, Tampered
from infra.settings import Settings, settings
from tasks.records import Action, Health
from tests.integration.conftest import EXAMPLES, images, serve
from tests.stored_kinds import kinds_of

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def digits(loop: Settings) -> Settings:
    from tasks.models.catalog import register

    register(EXAMPLES / "digits" / "model.yaml")
    serve(loop, "digits", 0, images(0.5, 1.0))
    return loop


def printed(outcome: RunOutcome, *, as_json: bool = False) -> str:
    """Return what `requant requantize` prints of a run."""
    from flows.cli import printing

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), printing.console.capture() as captured:
        printing.emit(outcome, as_json, printing.outcome)
    return shown.getvalue() + captured.get()


def test_the_first_run_builds_a_champion_for_every_target(digits: Settings) -> None:
    from mlflow import MlflowClient

    from flows.maintenance import maintenance
    from flows.outcomes import Status

    outcome = maintenance("digits")
    assert outcome.status is Status.PROMOTED, outcome.reason
    assert outcome.release is not None
    release = digits.release("digits", outcome.release)
    assert {
        "engines/onnxruntime-cpu/plan",
        "engines/tensorrt-rtx/plan",
        "engines/tensorrt-rtx/layers.json",
    } <= set(release.files)
    assert digits.registry().aliases("digits") == {"champion": outcome.version}
    told = json.loads(release.file("engines/tensorrt-rtx/plan.json"))
    assert told["plan_sha256"] == sha256(release.file("engines/tensorrt-rtx/plan"))
    assert "engines/onnxruntime-cpu/plan.json" not in release.files  # any host runs that graph
    # What is not installed is not recorded, and stops nothing.
    assert set(release.facts["libraries"]) >= {"onnx", "onnxruntime", "torch"}  # type: ignore[arg-type]  # a mapping
    gates = {}
    for target in ("onnxruntime-cpu", "tensorrt-rtx"):
        report = json.loads(release.file(f"golden/{target}.json"))
        gates[target] = next(
            gate for gate in report["gates"] if gate["metric"] == "layer-precision"
        )
        assert gates[target]["binding"] is False
    assert gates["onnxruntime-cpu"]["verdict"] in ("passed", "failed")
    assert gates["tensorrt-rtx"]["verdict"] == "passed"  # its builder tells without a device
    reasons = {target: gate["reason"] for target, gate in gates.items()}
    assert all("products run as asked" in reason for reason in reasons.values()), reasons
    text = " ".join(printed(outcome).split())
    client = MlflowClient(digits.mlflow_uri)
    described = client.get_model_version("digits", outcome.version or "").description
    for target, reason in reasons.items():
        assert f"{target} {reason}" in text
        assert f"- {target}: {reason}" in described
        assert reason in printed(outcome, as_json=True)


def test_the_champion_is_used_by_someone_who_has_nothing_of_ours(digits: Settings) -> None:
    code = """
import sys, json, numpy as np, mlflow
model = mlflow.pyfunc.load_model("models:/digits@champion")
out = model.predict({"image": np.zeros((3, 1, 8, 8), np.float32)})
ours = ("flows", "tasks", "infra", "dashboards")
assert not any(name.split(".")[0] in ours for name in sys.modules)
print(json.dumps(list(np.asarray(out["logits"]).shape)))
"""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": digits.mlflow_uri}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [3, 10]


def test_a_window_like_the_last_one_is_kept_and_costs_little_disk(digits: Settings) -> None:
    from benchmarks.orchestration.quiet_runs import GOAL_MB, SCRIPT, grown, used
    from flows.maintenance import maintenance
    from flows.outcomes import Status

    serve(digits, "digits", 1, images(0.5, 1.0, seed=1))
    before = used(digits.root)
    outcome = maintenance("digits")
    left = grown(before, used(digits.root), 1)
    assert sum(row.megabytes for row in left if row.folder != SCRIPT) <= GOAL_MB, left
    assert outcome.status is Status.KEPT, outcome.reason
    assert not outcome.candidates
    assert outcome.decision is not None
    (inputs,) = [one for one in outcome.decision.results if one.detector == "input"]
    seen = {one.subject: one for one in inputs.findings}
    assert "requests in the window's hours" in seen["all traffic"].text
    assert seen["all traffic: mean"].value < seen["all traffic: mean"].limit


def test_the_same_window_is_read_and_decided_once(
    digits: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from tasks.promotion import journal

    monkeypatch.setattr(
        "tasks.traffic.storage.windows.read_part",
        lambda _, key: pytest.fail(f"{key} was read again"),
    )
    monkeypatch.setattr(
        "tasks.profiles.window._profiled",
        lambda _, key, __: pytest.fail(f"{key} was profiled again"),
    )
    for detector in ("inputs", "ranges", "fidelity", "control"):
        monkeypatch.setattr(
            f"tasks.drift.steps.look_at_{detector}",
            lambda *_: pytest.fail("it was looked at again"),
        )
    before = journal.read("digits")
    outcome = maintenance("digits")
    assert outcome.status is Status.ALREADY_DONE
    assert outcome.decision is not None
    assert outcome.decision.action is Action.KEEP
    assert outcome.report is not None
    assert digits.store().exists(outcome.report)
    assert journal.read("digits") == before


def test_a_brighter_camera_gets_new_scales_from_two_runs_at_once_but_only_once(
    digits: Settings,
) -> None:
    from flows.queries.views import history
    from tasks.promotion.ledger import EntryKind

    promoted = sum(entry.kind is EntryKind.PROMOTED for entry in history("digits"))
    serve(digits, "digits", 2, images(4.0, 8.0, seed=2))
    command = [sys.executable, "-m", "flows.cli", "maintain", "digits", "--json"]
    environment = {**os.environ, "REQUANT_PREFECT_API_URL": os.environ["PREFECT_API_URL"]}
    runs = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(2)
    ]
    results = [run.communicate(timeout=240) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], results
    outcomes = [json.loads(out) for out, _ in results]
    assert sorted(one["status"] for one in outcomes) == ["already-done", "promoted"]
    acted = next(one for one in outcomes if one["status"] == "promoted")
    assert acted["decision"]["action"] == Action.RECALIBRATE
    health = {one["detector"]: one["health"] for one in acted["decision"]["results"]}
    assert health["range"] == Health.DEGRADED
    assert health["control"] == Health.FINE
    assert [candidate["recipe"] for candidate in acted["candidates"]] == ["resmooth"]
    assert sum(entry.kind is EntryKind.PROMOTED for entry in history("digits")) == promoted + 1


def test_wrong_full_precision_is_answered_by_a_request_for_retraining(digits: Settings) -> None:
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from tasks.promotion import journal
    from tasks.promotion.ledger import EntryKind

    inverted = [
        replace(one, payload=np.max(np.asarray(one.payload)) - np.asarray(one.payload))
        for one in images(4.0, 8.0, seed=3)
    ]
    serve(digits, "digits", 3, inverted)
    outcome = maintenance("digits")
    assert outcome.status is Status.RETRAINING_REQUESTED, outcome.reason
    newest = journal.read("digits")[-1]
    assert newest.kind is EntryKind.RETRAINING_REQUESTED
    assert newest.details["evidence"]


def test_scales_from_a_poisoned_window_are_refused_and_the_champion_stays(digits: Settings) -> None:
    from flows.outcomes import Status
    from flows.requantize import requantize
    from tasks.promotion.history import champion_of

    before = champion_of("digits")
    poisoned = [
        replace(one, payload=np.asarray(one.payload) * np.float32(1000)) if number % 3 == 0 else one
        for number, one in enumerate(images(4.0, 8.0, seed=4))
    ]
    serve(digits, "digits", 4, poisoned)
    outcome = requantize(
        "digits", recipe="recalibrate", reason="today's traffic", allow_scale_change=True
    )
    assert outcome.status is Status.REFUSED, (
        "even where a person lifts the bound on scales, the gates refuse"
    )
    assert before is not None
    assert champion_of("digits") == before
    assert digits.registry().aliases("digits")["champion"] == before.version


def test_a_candidate_waits_for_approval_and_approving_twice_acts_once(digits: Settings) -> None:
    from flows.approval import approval
    from flows.outcomes import Status
    from flows.requantize import requantize
    from tasks.promotion import journal

    serve(digits, "digits", 5, images(4.0, 8.0, seed=5))
    outcome = requantize("digits", recipe="int8-smooth", reason="try it", require_approval=True)
    assert outcome.status is Status.AWAITING_APPROVAL, outcome.reason
    assert outcome.version is not None
    assert digits.registry().aliases("digits")["challenger"] == outcome.version
    approval("digits", outcome.version, True, "looks good")
    entries = journal.read("digits")
    approval("digits", outcome.version, True, "looks good")
    assert journal.read("digits") == entries
    assert digits.registry().aliases("digits")["champion"] == outcome.version


def test_rolling_back_restores_the_champion_before(
    digits: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.rollback import rollback
    from tasks.promotion import journal
    from tasks.promotion.ledger import EntryKind, previous

    target = previous(journal.read("digits"))
    assert target is not None
    monkeypatch.setenv("REQUANT_ACTOR", "bob")
    settings.cache_clear()
    back = rollback("digits", reason="users complain")
    assert back.version == target.version
    newest = journal.read("digits")[-1]
    assert (newest.kind, newest.actor, newest.reason) == (
        EntryKind.ROLLED_BACK,
        "bob",
        "users complain",
    )
    assert digits.registry().aliases("digits")["champion"] == target.version


def test_an_operators_move_to_a_verified_version_is_adopted(digits: Settings) -> None:
    from flows.reconcile import reconcile
    from tasks.promotion import journal
    from tasks.promotion.ledger import previous
    from tasks.promotion.reconcile import AliasState

    other = previous(journal.read("digits"))
    assert other is not None
    assert other.version is not None
    digits.registry().set_alias("digits", "champion", other.version)
    assert reconcile("digits")["digits"].outcome is AliasState.ADOPTED
    assert journal.read("digits")[-1].actor == "mlflow"
    assert reconcile("digits")["digits"].outcome is AliasState.IN_STEP


def test_an_operators_move_to_a_refused_version_is_undone(digits: Settings) -> None:
    from flows.queries.views import history
    from flows.reconcile import reconcile
    from tasks.promotion.ledger import EntryKind
    from tasks.promotion.reconcile import AliasState

    refused = next(entry for entry in history("digits") if entry.kind is EntryKind.REFUSED)
    before = digits.registry().aliases("digits")["champion"]
    assert refused.version is not None
    digits.registry().set_alias("digits", "champion", refused.version)
    assert reconcile("digits")["digits"].outcome is AliasState.UNDONE
    assert digits.registry().aliases("digits")["champion"] == before


def test_a_release_with_a_flipped_byte_is_neither_served_nor_rolled_back_to(
    digits: Settings,
) -> None:
    from flows.rollback import rollback
    from tasks.promotion import journal
    from tasks.promotion.ledger import champion, rollback_target

    entries = journal.read("digits")
    target = rollback_target(entries)
    key = f"releases/digits/{target.release}/engines/onnxruntime-cpu/plan"
    plan = bytearray(digits.store().get(key))
    plan[len(plan) // 2] ^= 1
    digits.store().put(key, bytes(plan))
    with pytest.raises(Tampered, match="engines/onnxruntime-cpu/plan"):
        rollback("digits", reason="try")
    assert champion(journal.read("digits")) == champion(entries)
    plan[len(plan) // 2] ^= 1
    digits.store().put(key, bytes(plan))


def test_what_never_was_champion_is_not_rolled_back_to(digits: Settings) -> None:
    from flows.rollback import rollback

    with pytest.raises(Refused, match="never champion"):
        rollback("digits", reason="try", to="999")


def test_the_run_leaves_metrics_and_a_drift_report_behind(digits: Settings) -> None:
    from infra.telemetry import read_snapshots

    text = read_snapshots(digits.root / "metrics")
    assert 'requant_champion_version{model="digits"}' in text
    assert 'requant_rollbacks_total{model="digits"}' in text
    pages = list(digits.store().list("reports/digits/"))
    assert any(page.endswith("evidently.html") for page in pages)
    assert any(page.endswith("lenses.html") for page in pages)


def test_the_lineage_of_the_champion_reaches_from_traffic_to_engines(digits: Settings) -> None:
    from flows.queries import lineage
    from tasks.lineage import KINDS, ordered
    from tasks.promotion.history import champion_of

    champion = champion_of("digits")
    assert champion is not None
    found = lineage.of("digits", version=champion.version)
    assert {node.kind for node in found.nodes.values()} == set(KINDS)
    scales = next(node for node in ordered(found) if node.kind == "scales")
    assert champion.digest in {
        node.digest for node in lineage.of("digits", digest=scales.digest).nodes.values()
    }


def test_what_one_tenant_alone_sent_is_set_aside_with_the_reasons(digits: Settings) -> None:
    from flows.outcomes import Status
    from flows.requantize import requantize

    extreme = [
        replace(one, payload=np.asarray(one.payload) * np.float32(1000)) if number % 5 == 0 else one
        for number, one in enumerate(images(4.0, 8.0, seed=8))
    ]
    serve(digits, "digits", 40, extreme)
    before = set(digits.store().list("quarantine/digits/"))
    outcome = requantize("digits", recipe="recalibrate", reason="one tenant went wild")
    assert outcome.status is Status.PROMOTED, outcome.reason
    (key,) = set(digits.store().list("quarantine/digits/")) - before
    entries = json.loads(digits.store().get(key))["entries"]
    (tenant, count), *others = Counter(entry["tenant"] for entry in entries).most_common()
    assert tenant == "t0"
    # Whoever reaches beyond nine tenths of the others goes too: a few of everybody's brightest
    # images.
    assert count > 5 * sum(number for _, number in others)
    assert "taken for a shift" in entries[0]["reason"]


def test_every_object_of_this_story_is_of_exactly_one_kind(digits: Settings) -> None:
    from infra.stores import layout

    keys = list(digits.store().list(""))
    assert not [key for key in keys if len(kinds_of(key)) != 1]
    kinds = {kind for key in keys for kind in kinds_of(key)}
    assert kinds >= {layout.REGISTRATION, layout.TRAFFIC, layout.WINDOW, layout.CALIBRATION}
    assert kinds >= {layout.OBSERVATION, layout.VERDICT, layout.RELEASE, layout.LEDGER}


def test_forgetting_a_tenant_names_the_champion_that_was_calibrated_with_it(
    digits: Settings,
) -> None:
    from flows.commands.forget import forget
    from tasks.promotion.history import champion_of
    from tasks.traffic.storage.windows import read_window

    champion = champion_of("digits")
    assert champion is not None
    (done,) = forget("digits", tenant="t1", actor="dpo")
    assert done.removed["traffic"] > 100
    assert champion.digest in {one.release for one in done.releases}
    assert "t1" not in {
        one.tenant for one in read_window(digits.store(), "digits", hours=10_000).requests
    }
