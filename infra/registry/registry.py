"""The model registry and the experiment log: MLflow, which only this package knows."""

from __future__ import annotations

import contextlib
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.canonical import sha256
from infra.errors import BadInput, NotFound, Unavailable
from infra.identifiers import RunId
from infra.registry.cards import Card, describe_model, link_version, log_data, log_judged
from infra.registry.connection import Connection, files_beside
from infra.registry.copies import open_copy, remove_files, wrong_in
from infra.registry.flavour import Graph, log_onnx
from infra.registry.numbers import FREE, Numbers
from infra.registry.runs import end_killed, log_run, open_run
from infra.registry.traces import TracePage, read_trace_pages, read_traces
from infra.registry.vendor_errors import unless_taken
from infra.stores.digests import DigestCache

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DIGEST = re.compile(r"[A-Za-z0-9:._-]+")
_RELEASE = "release"  # the tag that names a version's release bundle
_PROJECTED = "ledger"  # the tag of a model that says which entry its aliases show
NO_CARD = Card()


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One version of a registered model."""

    version: str
    release: str | None  # digest of its bundle; None for a version that Requant did not make
    tags: Mapping[str, str]
    run_id: RunId | None


@dataclass(frozen=True, slots=True)
class Projected:
    """What the registry shows of a model's ledger."""

    aliases: Mapping[str, str]
    number: int | None  # of the entry that they were made to show; None when it was never noted
    digest: str  # of that entry


class Registry:
    """One MLflow tracking server (or database) and its model registry."""

    def __init__(
        self, tracking_uri: str, registry_uri: str | None = None, artifact_root: str | None = None
    ) -> None:
        """Connect on first use.

        `artifact_root` is where a database without a server keeps files; left out, a folder beside
        SQLite's.
        """
        self._connection = Connection(tracking_uri, registry_uri)
        self._artifact_root = artifact_root or files_beside(tracking_uri)

    def ping(self) -> None:
        """Return when the registry answers; raises `Unavailable` within seconds when not."""
        self._connection.reach()
        with self._connection.client("answer") as client:
            client.search_registered_models(max_results=1)

    def register(
        self,
        model: str,
        onnx_bytes: bytes,
        *,
        release: str,
        tags: Mapping[str, str],
        run_name: str,
        metrics: Mapping[str, float],
        params: Mapping[str, str],
        artifacts: Mapping[str, bytes],
        card: Card = NO_CARD,
        numbers: Numbers = FREE,
        weights: Mapping[str, Path] | None = None,
    ) -> str:
        """Log a run with the graph in the ONNX flavour, register it, and return the version.

        `weights` are the files beside the graph, by name.

        The same release gives the same version, while that still holds its graph. `numbers` says
        which number it had in a registry that was lost, and which are others'.
        Raises `BadInput` for bytes that are no ONNX model, `Unavailable`.
        """
        registered = self.version_of(model, release, sha256(onnx_bytes), DigestCache(None))
        if registered is not None:
            return registered
        marks = {**tags, _RELEASE: release}
        with (
            tempfile.TemporaryDirectory() as folder,
            self._connection.client(f"register {model}") as client,
            open_run(client, model, run_name, marks, self._artifact_root) as run_id,
        ):
            log_run(client, run_id, params, {}, artifacts)
            log_data(client, run_id, card)
            graph = Graph(onnx_bytes, weights or {})
            model_id = log_onnx(client, run_id, model, graph, Path(folder), card.kind)
            log_judged(client, run_id, model_id, metrics, card)
            return self._create_version(client, model, run_id, model_id, marks, card, numbers)

    def version_of(
        self, model: str, release: str, graph_digest: str, digests: DigestCache
    ) -> str | None:
        """Return the oldest version that carries a release and holds its graph, by SHA-256.

        A version that only bears the release's tag is none. Raises `BadInput`, `Unavailable`.
        """
        for version in self._tagged(model, release):
            if self.wrong_in(model, version, graph_digest, digests) is None:
                return version
        return None

    def wrong_in(
        self, model: str, version: str, graph_digest: str, digests: DigestCache
    ) -> str | None:
        """Return what differs in a version's files from one with this graph (SHA-256), or None.

        Raises `NotFound` for a version that is gone, `Unavailable`.
        """
        with self._connection.client(f"read the files of version {version} of {model}") as client:
            copy = open_copy(client, _checked(model), version, self._connection.tracking_uri)
            return wrong_in(copy, (model, version), graph_digest, digests)

    def set_tags(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version, keeping its others; raises `NotFound`, `Unavailable`."""
        with self._connection.client(f"tag version {version} of {model}") as client:
            for name, value in tags.items():
                client.set_model_version_tag(_checked(model), version, name, value)

    def aliases(self, model: str) -> dict[str, str]:
        """Return alias to version; empty for a model that has no version yet."""
        try:
            with self._connection.client(f"read the aliases of {model}") as client:
                aliases = client.get_registered_model(_checked(model)).aliases
        except NotFound:
            return {}
        return {str(alias): str(version) for alias, version in aliases.items()}

    def projected(self, model: str) -> Projected | None:
        """Return the aliases, and the entry of the ledger that they were last made to show.

        None when the registry does not know the model.
        """
        try:
            with self._connection.client(f"read the aliases of {model}") as client:
                registered = client.get_registered_model(_checked(model))
        except NotFound:
            return None
        number, _, digest = str(registered.tags.get(_PROJECTED, "")).partition(" ")
        return Projected(
            {str(alias): str(version) for alias, version in registered.aliases.items()},
            int(number) if number.isdecimal() else None,
            digest,
        )

    def note_projected(self, model: str, number: int, digest: str) -> None:
        """Note which entry of the ledger the aliases show; raises `NotFound`, `Unavailable`."""
        with self._connection.client(f"note what the aliases of {model} show") as client:
            client.set_registered_model_tag(_checked(model), _PROJECTED, f"{number} {digest}")

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point the alias at the version; raises `NotFound`, `Unavailable`."""
        doing = f"set the alias {alias} of {model} to version {version}"
        with self._connection.client(doing) as client:
            # Not every server refuses an alias to nothing.
            client.get_model_version(_checked(model), version)
            client.set_registered_model_alias(model, alias, version)

    def delete_alias(self, model: str, alias: str) -> None:
        """Remove the alias; an absent one is fine."""
        doing = f"delete the alias {alias} of {model}"
        with contextlib.suppress(NotFound), self._connection.client(doing) as client:
            if alias in client.get_registered_model(_checked(model)).aliases:
                client.delete_registered_model_alias(model, alias)

    def version(self, model: str, version: str) -> RegisteredVersion:
        """Return one version; raises `NotFound`, `Unavailable`."""
        with self._connection.client(f"read version {version} of {model}") as client:
            return _registered(client.get_model_version(_checked(model), version))

    def run_path(self, model: str, version: str) -> str:
        """Return where MLflow shows the run that made a version, below its server's address.

        Raises `NotFound` for a version that is gone or was made by no run, `Unavailable`.
        """
        with self._connection.client(f"find the run of version {version} of {model}") as client:
            run_id = client.get_model_version(_checked(model), version).run_id
            if not run_id:
                raise NotFound(f"version {version} of {model} was made by no run of MLflow")
            return f"/#/experiments/{client.get_run(run_id).info.experiment_id}/runs/{run_id}"

    def versions(self, model: str) -> tuple[RegisteredVersion, ...]:
        """Return every version, oldest first; empty for an unknown model."""
        return self._search(model, f"name = '{_checked(model)}'")

    def remove_version(self, model: str, version: str) -> None:
        """Delete a version and the files of its graph; one that is gone is fine.

        Its run stays: it says how the version was made. Raises `Unavailable`.
        """
        doing = f"delete version {version} of {model}"
        with contextlib.suppress(NotFound), self._connection.client(doing) as client:
            client.get_model_version(_checked(model), version)
            remove_files(open_copy(client, model, version, self._connection.tracking_uri))
            client.delete_model_version(model, version)

    def log_run(
        self,
        model: str,
        run_name: str,
        params: Mapping[str, str],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, bytes],
        parent: RunId | None = None,
    ) -> RunId:
        """Log a finished run under the model's experiment and return its id.

        Raises `Unavailable`.
        """
        nesting = {"mlflow.parentRunId": parent} if parent else {}
        marks, name = {**tags, **nesting}, _checked(model)
        with (
            self._connection.client(f"log the run {run_name} of {model}") as client,
            open_run(client, name, run_name, marks, self._artifact_root) as run_id,
        ):
            log_run(client, run_id, params, metrics, artifacts)
        return run_id

    def sweep(self, model: str) -> int:
        """End the runs of processes that were killed, and return how many; see `end_killed`."""
        with self._connection.client(f"end the killed runs of {model}") as client:
            return end_killed(client, _checked(model))

    def artifact(self, run_id: RunId, path: str) -> bytes:
        """Return one file of a run; raises `NotFound`, `Unavailable`."""
        folder_of_path = path.rpartition("/")[0] or None
        with (
            tempfile.TemporaryDirectory() as folder,
            self._connection.client(f"read the artifact {path} of {run_id}") as client,
        ):
            items = client.list_artifacts(run_id, folder_of_path)
            if not any(item.path == path and not item.is_dir for item in items):
                raise NotFound(
                    f"The run {run_id} has no artifact {path}: see the run's page for what it has."
                )
            return Path(client.download_artifacts(run_id, path, folder)).read_bytes()

    def try_files(self) -> str:
        """Write a small file where runs keep theirs, read it, delete it, and return the place.

        The database may answer while the files behind it cannot be reached. Raises `Unavailable`.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        name = f"probe-{secrets.token_hex(8)}"
        with (
            tempfile.TemporaryDirectory() as folder,
            self._connection.client("write a file") as client,
        ):
            root = (
                self._artifact_root or client.search_experiments(max_results=1)[0].artifact_location
            )
            place = f"{root.rstrip('/')}/requant-doctor"
            files = get_artifact_repository(place, tracking_uri=self._connection.tracking_uri)
            (Path(folder) / name).write_text(name)
            files.log_artifact(str(Path(folder) / name))
            text = Path(files.download_artifacts(name, str(Path(folder)))).read_text()
            files.delete_artifacts(name)
        if text != name:
            raise Unavailable(
                f"The files of {self._connection.address} at {root} come back otherwise than "
                "written."
            )
        return str(root)

    def traces(self, experiment: str) -> Iterator[str]:
        """Yield every trace of an experiment as JSON; see `read_traces`."""
        return read_traces(self._connection, experiment)

    def trace_pages(self, experiment: str, since_ms: int) -> Iterator[TracePage]:
        """Yield an experiment's traces since a moment by page; see `read_trace_pages`."""
        return read_trace_pages(self._connection, experiment, since_ms)

    def _create_version(
        self,
        client: MlflowClient,
        model: str,
        run_id: RunId,
        model_id: str,
        tags: Mapping[str, str],
        card: Card,
        numbers: Numbers,
    ) -> str:
        with unless_taken():
            client.create_registered_model(model)
        describe_model(client, model, card)
        source = self._source(client, model_id)
        version = str(
            numbers.claimed(
                lambda: client.create_model_version(
                    model,
                    source,
                    run_id,
                    tags=dict(tags),
                    model_id=model_id,
                    description=card.about_version or None,
                ),
                lambda number: client.delete_model_version(model, str(number)),
            )
        )
        link_version(client, model_id, model, version)
        return version

    def _tagged(self, model: str, release: str) -> tuple[str, ...]:
        if not _DIGEST.fullmatch(release):
            raise BadInput(
                f"{release!r} is no release digest: give the one that write_release returned."
            )
        query = f"name = '{_checked(model)}' and tags.{_RELEASE} = '{release}'"
        return tuple(version.version for version in self._search(model, query))

    def _search(self, model: str, query: str) -> tuple[RegisteredVersion, ...]:
        versions: list[RegisteredVersion] = []
        token = None
        with self._connection.client(f"list the versions of {model}") as client:
            while True:
                page = client.search_model_versions(query, page_token=token)
                versions += [_registered(version) for version in page]
                token = page.token
                if not token:
                    return tuple(sorted(versions, key=lambda version: int(version.version)))

    def _source(self, client: MlflowClient, model_id: str) -> str:
        """Return what names the logged model to this kind of registry.

        A server takes it by id alone; a database would look that id up at MLflow's global URI.
        """
        if self._connection.is_server:
            return f"models:/{model_id}"
        return str(client.get_logged_model(model_id).artifact_location)


def _registered(version: Any) -> RegisteredVersion:
    tags = {str(key): str(value) for key, value in version.tags.items()}
    return RegisteredVersion(str(version.version), tags.get(_RELEASE), tags, version.run_id or None)


def _checked(model: str) -> str:
    if _MODEL.fullmatch(model) is None:
        raise BadInput(
            f"The model name {model!r} cannot be registered: use letters, digits, '.', '_' and '-'."
        )
    return model
