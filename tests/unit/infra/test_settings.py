"""Settings come from the environment, or from defaults that work anywhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, current_thread, main_thread

import pytest

import infra.settings as module
from infra.errors import BadInput
from infra.settings import (
    LOCAL,
    NONE,
    QUIET,
    Settings,
    read_settings,
    settings,
    use_cluster,
    use_workspace,
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "WORKSPACE",
        "STORE_URL",
        "MLFLOW_TRACKING_URI",
        "SIGNING_KEY",
        "ACTOR",
        "PREFECT_PORT",
        "CLUSTER",
    ):
        monkeypatch.delenv(f"REQUANT_{name}", raising=False)


def test_everything_lies_in_the_workspace_unless_told_otherwise(tmp_path: Path) -> None:
    found = read_settings()
    assert found.root == tmp_path / ".requant"
    assert found.store_address == (tmp_path / ".requant" / "store").as_uri()
    assert found.mlflow_uri == f"sqlite:///{tmp_path / '.requant' / 'mlflow.db'}"
    assert found.key_path == tmp_path / ".requant" / "keys" / "signing.pem"


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUANT_STORE_URL", "s3://bucket/prefix")
    monkeypatch.setenv("REQUANT_MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert (read_settings().store_address, read_settings().mlflow_uri) == (
        "s3://bucket/prefix",
        "http://mlflow:5000",
    )


def test_settings_travel_as_environment_to_a_process_that_has_another_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUANT_CLUSTER", "tcp://127.0.0.1:8786")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    here = read_settings()
    travelling, places = here.travelling(), (here.root, here.store_address, here.key_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name, value in travelling.items():
        monkeypatch.setenv(name, value)
    there = read_settings()
    assert (there.root, there.store_address, there.key_path) == places
    assert there.actor == here.actor
    assert there.cluster == NONE  # what was spread is not spread again
    assert "secret" not in travelling.values()


def test_a_cluster_given_on_the_command_line_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUANT_CLUSTER", "tcp://127.0.0.1:8786")
    use_cluster(None)
    assert read_settings().cluster == "tcp://127.0.0.1:8786"
    use_cluster(LOCAL)
    assert read_settings().cluster == LOCAL


def test_a_wrong_value_is_bad_input_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUANT_PREFECT_PORT", "many")
    with pytest.raises(BadInput, match="REQUANT_PREFECT_PORT is 'many'"):
        read_settings()


@pytest.mark.parametrize(
    "failure", [KeyError("uid not found: 1000620000"), OSError("No username set")]
)
def test_a_container_whose_user_has_no_name_still_has_an_actor(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def nameless() -> str:
        raise failure

    monkeypatch.setattr("getpass.getuser", nameless)
    assert read_settings().actor.startswith("uid-")


def test_no_dependency_reports_home() -> None:
    assert QUIET["DO_NOT_TRACK"] == "1"
    assert QUIET["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_a_reading_that_began_before_the_workspace_changed_is_forgotten(
    workspace: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that reads while the workspace changes must not decide what others are told."""
    read, began, other_reads, stored = module.read_settings, Event(), Event(), Event()

    def slowly() -> Settings:
        found = read()
        if current_thread() is main_thread():
            other_reads.set()
            stored.wait(0.5)
        else:
            began.set()
            other_reads.wait(0.5)
        return found

    monkeypatch.setattr(module, "read_settings", slowly)
    settings.cache_clear()
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(settings)
        old.add_done_callback(lambda _: stored.set())
        began.wait()
        chosen = use_workspace(tmp_path / "other")
    assert old.result().root == workspace.root
    assert settings().root == chosen.root == tmp_path / "other"
