"""The registry may be edited, emptied, set back or slow: production stays what the ledger says."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mlflow.tracking import MlflowClient

from infra.canonical import sha256
from infra.errors import Tampered
from infra.settings import Settings
from infra.stores import layout
from tasks.promotion import history, journal, projection
from tasks.promotion.acts import promoting, reconciling
from tasks.promotion.acts.restoring import restore
from tasks.promotion.ledger import EntryKind
from tasks.promotion.reconcile import AliasState
from tasks.promotion.registered import marks
from tasks.records import ReleaseRef
from tests.integration.releases import flip, promoted, released
from tests.integration.test_registry import tiny_onnx


@pytest.fixture
def workspace(registry_workspace: Settings) -> Settings:
    """Point this process at a workspace with an empty registry."""
    return registry_workspace


def client(workspace: Settings) -> MlflowClient:
    return MlflowClient(workspace.mlflow_uri, workspace.mlflow_uri)


def copy_of(workspace: Settings, version: str, model: str = "tiny") -> Path:
    """Return the folder from which MLflow loads a version."""
    address = client(workspace).get_model_version_download_uri(model, version)
    return Path(unquote(urlsplit(address).path))


def served(workspace: Settings, model: str = "tiny") -> str:
    """Return the digest of the graph that anybody gets who loads the champion."""
    version = workspace.registry().aliases(model)["champion"]
    return sha256((copy_of(workspace, version, model) / "model.onnx").read_bytes())


def graph(scale: float) -> str:
    return sha256(tiny_onnx(scale))


# --- content, not a tag ---


def foreign(workspace: Settings, genuine: str, scale: float) -> str:
    """Register another model by hand, as a version that bears a genuine version's tags."""
    mlflow = client(workspace)
    experiment = mlflow.get_experiment_by_name("tiny")
    run = mlflow.create_run(experiment.experiment_id)
    folder = workspace.root / "foreign"
    shutil.copytree(copy_of(workspace, genuine), folder)
    (folder / "model.onnx").write_bytes(tiny_onnx(scale))
    mlflow.log_artifacts(run.info.run_id, str(folder), "model")
    tags = mlflow.get_model_version("tiny", genuine).tags
    source = f"{run.info.artifact_uri}/model"
    return str(mlflow.create_model_version("tiny", source, run.info.run_id, tags=tags).version)


def test_a_foreign_version_with_a_genuine_tag_is_undone_and_reported(workspace: Settings) -> None:
    first, second = promoted(workspace, 1.0, 2.0)
    evil = foreign(workspace, first.version, 666.0)
    workspace.registry().set_alias("tiny", "champion", evil)
    comparison = reconciling.reconcile("tiny")
    assert comparison.outcome is AliasState.UNDONE, comparison.told
    assert "model.onnx is not what the release holds" in comparison.told
    assert journal.read("tiny")[-1].kind is EntryKind.ALIAS_UNDONE
    assert served(workspace) == graph(2.0)
    assert history.champion_of("tiny") == second
    assert released(workspace, 1.0) == first, "no version is taken for another by its tag"


def replaced_graph(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(tiny_onnx(666.0))


def replaced_in_place(folder: Path) -> None:
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(20)
        file.write(b"\x01")


def another_flavour(folder: Path) -> None:
    text = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text(text.replace("loader_module: mlflow.onnx", "loader_module: os"))


def code_beside(folder: Path) -> None:
    (folder / "code").mkdir()
    (folder / "code" / "evil.py").write_text("raise SystemExit")


def a_package_more(folder: Path) -> None:
    with (folder / "requirements.txt").open("a") as file:
        file.write("\nevil-package\n")


def other_outputs(folder: Path) -> None:
    text = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text(text.replace('"name": "y"', '"name": "q"'))


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)


DAMAGE: tuple[Callable[[Path], None], ...] = (
    replaced_graph,
    replaced_in_place,
    another_flavour,
    code_beside,
    a_package_more,
    other_outputs,
    emptied,
)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda one: one.__name__)
def test_what_was_changed_under_the_champion_is_registered_again_and_reported(
    workspace: Settings, damage: Callable[[Path], None]
) -> None:
    first, second = promoted(workspace, 1.0, 2.0)
    assert reconciling.reconcile("tiny").outcome is AliasState.IN_STEP
    entries = journal.read("tiny")
    damage(copy_of(workspace, second.version))
    comparison = reconciling.reconcile("tiny")
    assert comparison.outcome is AliasState.RESTORED, comparison.told
    assert "registered again as version 3" in comparison.told
    assert served(workspace) == graph(2.0)
    champion = history.champion_of("tiny")
    assert champion == ReleaseRef(second.model, "3", second.digest)
    assert [entry.kind for entry in journal.read("tiny")[len(entries) :]] == [EntryKind.REGISTERED]
    assert reconciling.reconcile("tiny").outcome is AliasState.IN_STEP
    assert workspace.registry().aliases("tiny") == {"champion": "3", "previous": first.version}
    back = promoting.roll_back("tiny", None, "ann", "why not", "r1")
    assert back == first


def test_a_damaged_bundle_of_the_champion_is_reported_and_moves_nothing(
    workspace: Settings,
) -> None:
    _, second = promoted(workspace, 1.0, 2.0)
    reconciling.reconcile("tiny")
    flip(workspace, second, "graph.onnx")
    comparison = reconciling.reconcile("tiny")
    assert comparison.outcome is AliasState.FAILED
    assert comparison.failed
    assert "graph.onnx" in comparison.told
    assert served(workspace) == graph(2.0)


def test_what_did_not_change_is_not_read_again(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(workspace, 1.0, 2.0)
    reconciling.reconcile("tiny")
    read: list[str] = []
    from infra.stores.local import LocalStore

    get = LocalStore.get
    monkeypatch.setattr(
        LocalStore, "get", lambda store, key: (read.append(key), get(store, key))[1]
    )
    assert reconciling.reconcile("tiny").outcome is AliasState.IN_STEP
    assert not [key for key in read if key.endswith(("plan", "graph.onnx", "model.onnx"))]


# --- lost, old and cut registries ---


def database(workspace: Settings) -> Path:
    return workspace.root / "mlflow.db"


def backed_up(workspace: Settings) -> Path:
    """Copy the registry's database as a backup does."""
    target = workspace.root / "backup.db"
    with (
        closing(sqlite3.connect(database(workspace))) as live,
        closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)
    return target


@pytest.mark.parametrize("command", ["reconcile", "restore"])
def test_an_emptied_registry_is_rebuilt_under_the_same_numbers(
    workspace: Settings, empty_registry: Path, command: str
) -> None:
    released(workspace, 9.0)  # version 1 that never came into the ledger
    first = promoted(workspace, 1.0, 2.0, 3.0)
    assert [release.version for release in first] == ["2", "3", "4"]
    shutil.copy(empty_registry, database(workspace))
    if command == "restore":
        assert len(restore("tiny")) == 3
        projection.show("tiny")
    else:
        assert reconciling.reconcile("tiny").outcome is AliasState.RESTORED
    assert workspace.registry().aliases("tiny") == {"champion": "4", "previous": "3"}
    assert served(workspace) == graph(3.0)
    assert history.champion_of("tiny") == first[-1]
    assert not [
        e for e in journal.read("tiny") if e.kind in (EntryKind.ROLLED_BACK, EntryKind.ALIAS_UNDONE)
    ]
    assert reconciling.reconcile("tiny").outcome is AliasState.IN_STEP
    assert promoting.roll_back("tiny", None, "ann", "back", "r1").digest == first[1].digest
    assert promoting.roll_back("tiny", None, "ann", "back", "r2").digest == first[0].digest
    assert served(workspace) == graph(1.0)


def test_an_older_registry_never_moves_production(workspace: Settings) -> None:
    first, second = promoted(workspace, 1.0, 2.0)
    backup = backed_up(workspace)
    third = released(workspace, 3.0)
    promoting.promote(third, second.version, "a", "better")
    promoting.roll_back("tiny", first.version, "ann", "worse", "r1")
    assert served(workspace) == graph(1.0)
    entries = journal.read("tiny")
    shutil.copy(backup, database(workspace))
    comparison = reconciling.reconcile("tiny")
    assert comparison.outcome is AliasState.RESTORED, comparison.told
    assert "older state" in comparison.told
    assert served(workspace) == graph(1.0)
    kinds = [entry.kind for entry in journal.read("tiny")[len(entries) :]]
    assert set(kinds) <= {EntryKind.REGISTERED}
    assert history.champion_of("tiny") == first
    assert workspace.registry().aliases("tiny")["previous"] == third.version
    assert reconciling.reconcile("tiny").outcome is AliasState.IN_STEP


def test_an_operators_move_is_still_followed_after_a_restore(workspace: Settings) -> None:
    first, _ = promoted(workspace, 1.0, 2.0)
    backup = backed_up(workspace)
    promoting.promote(released(workspace, 3.0), "2", "a", "better")
    shutil.copy(backup, database(workspace))
    reconciling.reconcile("tiny")
    workspace.registry().set_alias("tiny", "champion", first.version)
    assert reconciling.reconcile("tiny").outcome is AliasState.ADOPTED
    assert served(workspace) == graph(1.0)


def test_a_ledger_that_lost_entries_stops_everything_and_is_named(workspace: Settings) -> None:
    promoted(workspace, 1.0, 2.0)
    key = f"{layout.ledger('tiny')}/{len(journal.read('tiny')):08d}.json"
    workspace.store().delete(key)
    for act in (
        lambda: reconciling.reconcile("tiny"),
        lambda: promoting.promote(released(workspace, 3.0), "1", "a", "better"),
    ):
        with pytest.raises(Tampered, match="restore the store's ledger"):
            act()
    assert served(workspace) == graph(2.0)


# --- deleted versions ---


def test_a_champion_whose_version_was_deleted_is_registered_again(workspace: Settings) -> None:
    first, second = promoted(workspace, 1.0, 2.0)
    client(workspace).delete_model_version("tiny", second.version)
    comparison = reconciling.reconcile("tiny")
    assert comparison.outcome is AliasState.RESTORED
    assert "deleted in the registry" in comparison.told
    assert served(workspace) == graph(2.0)
    assert workspace.registry().aliases("tiny") == {"champion": "3", "previous": "1"}
    assert promoting.roll_back("tiny", None, "ann", "back", "r").digest == first.digest


@pytest.mark.parametrize("deleted", ["1", "2", "3"])
def test_a_rollback_to_or_past_a_deleted_version_works(workspace: Settings, deleted: str) -> None:
    first, second, _ = promoted(workspace, 1.0, 2.0, 3.0)
    client(workspace).delete_model_version("tiny", deleted)
    assert promoting.roll_back("tiny", None, "ann", "back", "r1").digest == second.digest
    assert served(workspace) == graph(2.0)
    assert promoting.roll_back("tiny", None, "ann", "back", "r2").digest == first.digest
    assert served(workspace) == graph(1.0)
    assert reconciling.reconcile("tiny").outcome is AliasState.IN_STEP


def test_a_rollback_to_what_is_deleted_and_damaged_is_refused_before_the_commit(
    workspace: Settings,
) -> None:
    first, _ = promoted(workspace, 1.0, 2.0)
    client(workspace).delete_model_version("tiny", first.version)
    flip(workspace, first, "graph.onnx")
    entries = journal.read("tiny")
    with pytest.raises(Tampered):
        promoting.roll_back("tiny", None, "ann", "back", "r1")
    assert journal.read("tiny") == entries
    assert served(workspace) == graph(2.0)


# --- late calls, killed writers ---


def test_an_alias_call_that_arrives_after_its_caller_died_is_nobodys_act(
    workspace: Settings,
) -> None:
    first, second = promoted(workspace, 1.0, 2.0)
    marks.announce("tiny", first.version)  # and then the caller hangs, and is killed
    workspace.registry().set_alias("tiny", "champion", first.version)  # what it sent, late
    entries = journal.read("tiny")
    comparison = reconciling.reconcile("tiny")
    assert comparison.outcome is AliasState.LAGGING, comparison.told
    assert journal.read("tiny") == entries
    assert served(workspace) == graph(2.0)
    assert history.champion_of("tiny") == second


def test_a_projection_that_is_overtaken_while_it_calls_shows_the_newer_state(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.registry.registry import Registry

    first, second = promoted(workspace, 1.0, 2.0)
    third = released(workspace, 3.0)
    set_alias, calls = Registry.set_alias, []

    def slow(registry: Registry, model: str, alias: str, version: str) -> None:
        calls.append(version)
        if len(calls) == 1:  # while this call is on its way, somebody else promotes
            promoting.promote(third, first.version, "b", "better")
        set_alias(registry, model, alias, version)

    monkeypatch.setattr(Registry, "set_alias", slow)
    promoting.roll_back("tiny", first.version, "ann", "back", "r1")
    assert history.champion_of("tiny") == third
    assert served(workspace) == graph(3.0)
    assert workspace.registry().aliases("tiny") == {"champion": "3", "previous": "1"}
    assert marks.under_way("tiny") == ()
    assert reconciling.reconcile("tiny").outcome is AliasState.IN_STEP
    assert second.version == "2"


def test_announcements_of_the_dead_are_cleared_in_time(workspace: Settings) -> None:
    key = marks.announce("tiny", "1")
    assert marks.clear("tiny") == 0, "a call may still be on its way"
    noted = json.loads(workspace.store().get(key))
    long_ago = datetime.now(UTC) - timedelta(hours=3)
    workspace.store().put(key, json.dumps({**noted, "time": long_ago.isoformat()}).encode())
    assert marks.clear("tiny") == 1
    assert marks.under_way("tiny") == ()


_KILLED = """
import os, sys
from infra.registry import registry as module
from infra.settings import settings, use_workspace
from tests.integration.releases import released
stage = sys.argv[1]
def die(*_, **__):
    os._exit(9)
if stage == "_log_tags":
    from infra.registry import runs
    runs._log_tags = die
setattr(module, stage, die) if hasattr(module, stage) else setattr(module.Registry, stage, die)
if stage == "partial":
    from infra.stores import local
    local.os.fsync = die
released(use_workspace(None), 2.0)
"""


@pytest.mark.parametrize(
    "stage",
    [
        "_log_tags",
        "log_run",
        "log_onnx",
        "log_judged",
        "_create_version",
        "link_version",
        "partial",
    ],
)
def test_a_kill_leaves_nothing_running_and_no_orphan_after_one_reconciliation(
    workspace: Settings, stage: str
) -> None:
    from flows.reconcile import reconcile

    promoted(workspace, 1.0)
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, stage], check=False, cwd=Path(__file__).parents[2]
    )
    assert killed.returncode == 9
    reconcile.fn("tiny")
    mlflow = client(workspace)
    place = [mlflow.get_experiment_by_name("tiny").experiment_id]
    assert not mlflow.search_runs(place, "attributes.status = 'RUNNING'")
    runs = {version.run_id for version in mlflow.search_model_versions("name = 'tiny'")}
    assert {logged.source_run_id for logged in mlflow.search_logged_models(place)} == runs
    assert not list((workspace.root / "store" / ".partial").glob("*"))
    assert released(workspace, 2.0).version == "2"
