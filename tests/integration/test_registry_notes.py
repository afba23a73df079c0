"""What MLflow itself writes beside a version that it loads from where it lies."""

from pathlib import Path

import mlflow
import numpy as np

from infra.canonical import sha256
from infra.registry.registry import Registry
from infra.stores.digests import DigestCache
from tests.integration.test_registry import register, tiny_onnx


def test_a_version_that_mlflow_loaded_is_no_changed_one(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    registry = Registry(uri, artifact_root=(tmp_path / "files").as_uri())
    version = register(registry, "tiny", "1" * 64)
    held = ("tiny", version, sha256(tiny_onnx()), DigestCache(None))
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(f"models:/tiny/{version}")
    loaded.predict({"x": np.ones((1, 3), np.float32), "ids": np.zeros((1, 2), np.int64)})
    (note,) = (tmp_path / "files").rglob("registered_model_meta")
    assert registry.wrong_in(*held) is None
    note.write_text(note.read_text().replace("tiny", "other"))
    assert "names another version" in str(registry.wrong_in(*held))
    note.write_text("[")
    assert "names another version" in str(registry.wrong_in(*held))
