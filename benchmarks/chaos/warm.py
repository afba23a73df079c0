"""What every child needs, loaded once: a fork shares it, and a trial costs what the act costs."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.orchestration.tiny_releases import numbered_graph
from infra import settings


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
        mlflow.onnx.save_model(onnx.load_from_string(numbered_graph(1)), f"{folder}/model")


def warm_up(work: Callable[[], object], place: Path) -> None:
    """Do the work here once, and close what it opened: a child shares no connection with another.

    Raises:
        RuntimeError: A thread, a connection or a file below `place` is left, which a fork shares.
    """
    work()
    from sqlalchemy import Engine
    from urllib3 import PoolManager

    settings._opened.cache_clear()
    settings._directory.cache_clear()
    settings.settings.cache_clear()
    gc.collect()
    for kept in gc.get_objects():
        kind = type(kept)  # asking a stand-in for its class would wake it
        if issubclass(kind, Engine):
            kept.dispose()
        elif issubclass(kind, PoolManager):
            kept.clear()
    gc.collect()
    shared = [name for name in _open_files() if name.startswith(("socket:", str(place.resolve())))]
    if shared or threading.active_count() > 1:
        raise RuntimeError(f"A fork would share {shared} and lose {threading.enumerate()[1:]}")
    gc.freeze()  # a child's collections then leave these pages shared


def _open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    return [str(link.readlink()) for link in folder.iterdir() if os.path.lexists(link)]
