"""A workspace for one test, and nothing of it left afterwards.

What settings stand on is imported when a workspace is asked for: the tests of a GPU host run
without it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from infra.settings import Settings


def pytest_configure() -> None:
    """Let programs that models write run where bubblewrap is not installed: the tests know them."""
    if shutil.which("bwrap") is None:
        os.environ.setdefault("REQUANT_UNISOLATED_PROGRAMS", "true")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Settings]:
    """Point this process at an empty workspace."""
    yield from pointed_at(tmp_path / "workspace")


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an MLflow database without an entry once: its tables take seconds to create."""
    folder = tmp_path_factory.mktemp("registry")
    for settings in pointed_at(folder):
        settings.registry().ping()
    return folder / "mlflow.db"


@pytest.fixture
def registry_workspace(workspace: Settings, empty_registry: Path) -> Settings:
    """Point this process at a workspace whose MLflow database has its tables already."""
    workspace.root.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_registry, workspace.root / "mlflow.db")
    return workspace


@pytest.fixture(scope="module")
def shared_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Open one workspace for all tests of a file that tell one story."""
    yield from pointed_at(tmp_path_factory.mktemp("shared") / "workspace")


def pointed_at(folder: Path) -> Iterator[Settings]:
    """Environment and settings for a workspace, restored afterwards."""
    from infra.settings import settings, use_workspace

    before = dict(os.environ)
    try:
        yield use_workspace(folder)
    finally:
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()
