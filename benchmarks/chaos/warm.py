"""What every child needs, loaded once: a fork shares it, and a trial costs what the act costs."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.orchestration.tiny_releases import numbered_graph
from infra import settings

if TYPE_CHECKING:
    from sqlalchemy import Engine


_engines: list[Engine] = []
"""MLflow's, one a database: it keeps them, and what is frozen is not listed again."""


def preload() -> None:
    """Import what every child needs, and open nothing."""
    import mlflow.onnx
    import mlflow.store.db.utils
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking
    import onnx

    import infra.registry.registry  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:  # MLflow looks through every package once
        graph, place = onnx.load_from_string(numbered_graph(1)), f"{folder}/model"
        mlflow.onnx.save_model(graph, place, pip_requirements=["onnx"])


def warm_up(work: Callable[[], object], place: Path) -> None:
    """Do the work here once, and close what it opened: a child shares no connection with another.

    Raises:
        RuntimeError: As `let_go`.
    """
    work()
    let_go(place)
    gc.freeze()  # a child's collections then leave these pages shared


def let_go(place: Path) -> None:
    """Close what was opened here since.

    Raises:
        RuntimeError: A thread, a connection or a file below `place` is left, which a fork shares.
    """
    from sqlalchemy import Engine
    from urllib3 import PoolManager

    settings._opened.cache_clear()
    settings._weights.cache_clear()
    settings._directory.cache_clear()
    settings.settings.cache_clear()
    gc.collect()
    for kept in gc.get_objects():
        kind = type(kept)  # asking a stand-in for its class would wake it
        if issubclass(kind, Engine):
            _engines.append(kept)
        elif issubclass(kind, PoolManager):
            kept.clear()
    for engine in _engines:
        engine.dispose()
    gc.collect()
    shared = [name for name in _open_files() if name.startswith(("socket:", str(place.resolve())))]
    if shared or threading.active_count() > 1:
        raise RuntimeError(f"A fork would share {shared} and lose {threading.enumerate()[1:]}")


def _open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    return [str(link.readlink()) for link in folder.iterdir() if os.path.lexists(link)]
