"""Bring a model's source, wherever it lives, to a local folder."""

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from infra.errors import BadInput, NotFound, Unavailable
from infra.stores import open_store


def fetch(source: str, *, base: Path, cache: Path) -> Path:
    """The folder that holds the weights.

    `package:NAME/path` is a folder inside an installed package, `s3://bucket/prefix` is copied to `cache`,
    `models:/NAME/VERSION` is downloaded from MLflow to `cache`; anything else is a folder, relative to `base`.
    Raises `BadInput` when it is not there.
    """
    if source.startswith("package:"):
        return _package(source)
    if source.startswith("s3://"):
        return _objects(source, cache)
    if source.startswith("models:/"):
        return _registered(source, cache)
    folder = (base / source).resolve()
    if not folder.is_dir():
        raise BadInput(
            f"source: {source!r} is no folder (looked at {folder}); give a folder, package:, s3:// or models:/"
        )
    return folder


def _package(source: str) -> Path:
    name, _, inner = source.removeprefix("package:").partition("/")
    if find_spec(name) is None:
        raise BadInput(
            f"source: package {name!r} is not installed; pip install 'requant[examples]' brings the examples'"
        )
    folder = Path(str(files(name))) / inner
    if not folder.is_dir():
        raise BadInput(f"source: package {name!r} has no folder {inner!r}")
    return folder


def _objects(source: str, cache: Path) -> Path:
    store = open_store(source)
    keys = list(store.list(""))
    if not keys:
        raise BadInput(f"source: nothing lies under {source}; give the prefix of the folder that holds the weights")
    for key in keys:
        path = cache / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get(key))
    return cache


def _registered(source: str, cache: Path) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return Path(mlflow.artifacts.download_artifacts(source, dst_path=str(cache)))
    except MlflowException as exc:
        if getattr(exc, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            raise NotFound(f"source: the MLflow registry has no {source}") from exc
        raise Unavailable(f"source: MLflow did not give {source}: {exc.message}") from exc
