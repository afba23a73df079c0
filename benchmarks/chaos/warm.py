"""What every child needs, loaded once: a fork shares it, and a trial costs what the act costs."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.chaos.children import in_child
from benchmarks.orchestration.tiny_releases import numbered_graph


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


def preload_what_it_takes(work: Callable[[], object]) -> None:
    """Do the work in a child, and import here what it came to import there.

    Raises:
        RuntimeError: Something started a thread here, which a fork would lose.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "names"

        def noted() -> None:
            work()
            names.write_text("\n".join(sys.modules))

        ended = in_child(noted)
        if ended.code != 0:
            raise RuntimeError(f"The work that warms up ended with {ended.code}: {ended.said}")
        for name in names.read_text().splitlines():
            if name not in sys.modules:
                with contextlib.suppress(ImportError):  # names that others made up
                    importlib.import_module(name)
    if threading.active_count() > 1:
        raise RuntimeError(f"A fork would lose threads: {threading.enumerate()}")
    gc.collect()
    gc.freeze()  # a child's collections then leave these pages shared
