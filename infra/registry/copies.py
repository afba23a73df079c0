"""A version's files as the registry holds them, and whether they still are what was registered."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import yaml

from infra.canonical import sha256
from infra.errors import BadInput, NotFound, Unavailable
from infra.identifiers import Digest
from infra.registry.checkpoint_flavour import PACKAGES, stem_of
from infra.registry.flavour import DESCRIPTION, FILES, GRAPH_FILE, differences, files_of
from infra.stores import open_store
from infra.stores.digests import DigestCache
from infra.weights.naming import file_name, is_weight_file
from infra.weights.outline import outline

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from infra.stores.port import ObjectStore

_REQUIREMENT = re.compile(
    r"(python|pip|mlflow|onnx|onnxruntime|setuptools|wheel"
    rf"|{'|'.join(PACKAGES)})(\s*[:=<>!~]=?\s*[\w.]+)?"
    r"|-r requirements\.txt|((channels|dependencies|build_dependencies|pip):)|conda-forge"
    r"|name: mlflow-env"
)
"""A line of the environments beside a model: no other package is named."""

LOADED = "registered_model_meta"
"""What MLflow writes beside a version that it loads from where it lies."""


class ProxiedFiles:
    """The files of a version behind an MLflow server: listed, read, removed, and never written.

    A listing shows no time and no tag there, so nothing is known without reading.
    """

    def __init__(self, url: str, tracking_uri: str) -> None:
        """Take the address that the registry names, such as `mlflow-artifacts:/1/models/m-0`."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.url = url
        self._files = get_artifact_repository(url, tracking_uri=tracking_uri)

    def list(self, prefix: str) -> Iterator[str]:
        """List the files below a folder."""
        for item in self._files.list_artifacts(prefix or None):
            if item.is_dir:
                yield from self.list(item.path)
            else:
                yield item.path

    def get(self, key: str) -> bytes:
        """Return a file's bytes."""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self._files.download_artifacts(key, folder)).read_bytes()

    def digest(self, key: str) -> Digest:
        """Return the SHA-256 of a file's bytes."""
        with (
            tempfile.TemporaryDirectory() as folder,
            Path(self._files.download_artifacts(key, folder)).open("rb") as file,
        ):
            return Digest(hashlib.file_digest(file, "sha256").hexdigest())

    def delete(self, key: str) -> None:
        """Remove a file."""
        self._files.delete_artifacts(key)

    def stamp(self, _: str) -> str:
        """Return nothing: it is read each time."""
        return ""


def open_copy(client: MlflowClient, model: str, version: str, tracking_uri: str) -> ObjectStore:
    """Open the files that the registry hands to whoever loads a version."""
    url = str(client.get_model_version_download_uri(model, version))
    if urlsplit(url).scheme in ("", "file", "s3"):
        return open_store(url, endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    return ProxiedFiles(url, tracking_uri)  # type: ignore[return-value]  # it reads, and nobody writes


def remove_files(copy: ObjectStore) -> None:
    """Remove a version's files; raises `Unavailable`."""
    for key in list(copy.list("")):
        copy.delete(key)


def wrong_in(
    copy: ObjectStore, of: tuple[str, str], graph_digest: str, digests: DigestCache
) -> str | None:
    """Return what differs from a version whose graph has this SHA-256; None where nothing does.

    Every file is accounted for: the graph by its digest, what MLflow is told of it by what it would
    make MLflow do. `of` is the model's name and the version. Raises `Unavailable`.
    """
    present = set(copy.list(""))
    if not present >= FILES:
        return f"it lacks {min(FILES - present)}"
    try:
        if LOADED in present and not _is_noted(copy.get(LOADED), *of):
            return f"its {LOADED} names another version"
        if digests.digest(copy, GRAPH_FILE) != graph_digest:
            return f"its {GRAPH_FILE} is not what the release holds"
        names = sorted(present - FILES - {LOADED})
        beside = {name: file_name(digests.digest(copy, name)) for name in names}
        for name, digest in beside.items():
            if is_weight_file(stem_of(name)) and stem_of(name) != digest:
                return f"its {name} differs from its digest"
        return _wrong_beside(copy, graph_digest, beside, digests)
    except NotFound as error:
        raise Unavailable(f"A version's files changed while they were read: {error}") from error
    except BadInput as error:
        return str(error)


def _wrong_beside(
    copy: ObjectStore, graph_digest: str, beside: Mapping[str, str], digests: DigestCache
) -> str | None:
    small = {name: copy.get(name) for name in sorted(FILES - {GRAPH_FILE})}
    rests_on = [graph_digest, sha256(b"".join(small.values())), *map(" ".join, beside.items())]
    known = sha256("\n".join(rests_on).encode())
    if digests.approved(known):
        return None
    lines = [line for name in sorted(small) if name != DESCRIPTION for line in _lines(small[name])]
    strange = [line for line in lines if _REQUIREMENT.fullmatch(line) is None]
    if strange:
        return f"it requires {strange[0]!r}"
    graph = copy.get(GRAPH_FILE)
    named = files_of(graph)
    if set(beside) != set(named):
        strange, missing = sorted(set(beside) - set(named)), sorted(set(named) - set(beside))
        return f"it holds {strange[0]}" if strange else f"it lacks {missing[0]}"
    other = [name for name, digest in beside.items() if digest != named[name]]
    if other:
        return f"its {other[0]} is not what the release holds"
    wrong = differences(small[DESCRIPTION], outline(graph))
    if wrong is None:
        digests.approve(known)
    return wrong


def _is_noted(data: bytes, model: str, version: str) -> bool:
    """Return whether MLflow's note says that the files are those of a version."""
    try:
        noted = yaml.safe_load(data)
        told = {name: str(value) for name, value in noted.items()}  # a number, or its digits
    except (yaml.YAMLError, AttributeError):
        return False
    return told == {"model_name": model, "model_version": version}


def _lines(data: bytes) -> list[str]:
    """Return the lines of a list of requirements, or of the YAML of an environment."""
    text = data.decode("utf-8", "replace")
    lines = (line.strip().removeprefix("- ").strip() for line in text.splitlines())
    return [line for line in lines if line]
