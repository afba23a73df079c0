"""Bring a model's source, wherever it lives, to a local folder."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from infra.errors import BadInput, NotFound, Unavailable
from infra.stores import open_store

WHOLE = (".onnx", ".gguf")
"""Ends of sources that are one file."""
_REGISTERED = re.compile(r"models:/[^/@]+(/[^/@]+|@[^/@]+)")


def fetch(
    source: str,
    *,
    base: Path,
    cache: Path,
    endpoint_url: str | None = None,
    region: str | None = None,
) -> Path:
    """Return the folder that holds the weights, or the file that is the whole source.

    It is fetched where it lies elsewhere.

    `package:NAME/path` is a folder inside an installed package, `s3://bucket/prefix` is copied to
    `cache`, `models:/NAME/VERSION` is downloaded from MLflow to `cache`; anything else is a folder,
    relative to `base`. What lay in `cache` before is removed; `endpoint_url` and `region` are for
    S3 alone.

    Raises:
        BadInput: The source is not there.
        NotFound: The source is not there.
        Unavailable: The source's server does not answer.
    """
    if source.endswith(WHOLE):
        return _file(source, base, cache, endpoint_url, region)
    if source.startswith("package:"):
        return _package(source)
    if source.startswith("s3://"):
        return _objects(source, _emptied(cache), endpoint_url, region)
    if source.startswith("models:/"):
        return _registered(source, cache)
    folder = (base / source).resolve()
    if not folder.is_dir():
        raise BadInput(
            f"source: {source!r} is no folder (looked at {folder}); "
            "give a folder, package:, s3:// or models:/"
        )
    return folder


def _file(
    source: str, base: Path, cache: Path, endpoint_url: str | None, region: str | None
) -> Path:
    """Return a graph's file; its folder is fetched, because weights may lie beside it."""
    inner, _, name = source.rpartition("/")
    folder = fetch(inner or ".", base=base, cache=cache, endpoint_url=endpoint_url, region=region)
    if not (folder / name).is_file():
        suffix = Path(name).suffix
        others = ", ".join(sorted(path.name for path in folder.glob(f"*{suffix}"))) or "none"
        raise BadInput(f"source: {folder} has no file {name}; its {suffix} files are {others}")
    return folder / name


def _package(source: str) -> Path:
    name, _, inner = source.removeprefix("package:").partition("/")
    places = _places(name)
    if not places:
        raise BadInput(
            f"source: package {name!r} is not installed; "
            "pip install 'requant[examples]' brings the examples'"
        )
    folder = next((place / inner for place in places if (place / inner).is_dir()), None)
    if folder is None:
        raise BadInput(f"source: package {name!r} has no folder {inner!r}")
    return folder


def _places(name: str) -> list[Path]:
    """Return the folders of an installed package, whose code is not run; none without it."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # the parent of a dotted name is missing; the name is empty
        return []
    return [Path(place) for place in spec.submodule_search_locations or ()] if spec else []


def _emptied(cache: Path) -> Path:
    """Empty the cache: a file of an earlier source must not be read as this one's."""
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _objects(source: str, cache: Path, endpoint_url: str | None, region: str | None) -> Path:
    store = open_store(source, endpoint_url=endpoint_url, region=region)
    keys = list(store.list(""))
    if not keys:
        raise BadInput(
            f"source: nothing lies under {source}; "
            "give the prefix of the folder that holds the weights"
        )
    for key in keys:
        path = cache / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get(key))
    return cache


def _registered(source: str, cache: Path) -> Path:
    if _REGISTERED.fullmatch(source) is None:
        raise BadInput(
            f"source: {source!r} names no version: give models:/NAME/VERSION or models:/NAME@ALIAS"
        )
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return Path(mlflow.artifacts.download_artifacts(source, dst_path=str(_emptied(cache))))
    except (
        MlflowException,
        OSError,
    ) as exc:  # a file store that does not answer raises its own OSError
        code = getattr(exc, "error_code", "")
        if code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFound(
                f"source: the MLflow registry has no {source}; give models:/NAME/VERSION"
            ) from exc
        if code == "INVALID_PARAMETER_VALUE":  # its answer to an unknown alias
            raise BadInput(
                f"source: {source} names no model of the MLflow registry; give models:/NAME/VERSION"
            ) from exc
        raise Unavailable(
            f"source: MLflow did not give {source}: {' '.join(str(exc).split())[:300]}"
        ) from exc
