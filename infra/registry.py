"""The model registry and the experiment log: MLflow, and the only module that knows it.

MLflow is imported on first use: it takes two seconds, and reads its settings from the environment as it loads.
Everything goes through an explicit client, never through MLflow's global URI or active run, so that threads and
several registries in one process do not meet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import httpx

from infra.addresses import without_password
from infra.cards import (
    EXPERIMENT_TAGS,
    Card,
    describe_experiment,
    describe_model,
    link_version,
    log_data,
    log_judged,
)
from infra.errors import BadInput, NotFound, RequantError, Unavailable
from infra.flavour import log_onnx

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_T = TypeVar("_T")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RELEASE = "release"  # the tag that names a version's release bundle
_NOT_FOUND = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
_BAD_INPUT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_TAKEN = {"RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"}
_BATCH = 100  # parameters or tags that MLflow takes in one request
_TRACES = 100  # in one page; each may hold a long conversation
NO_CARD = Card()
_PATIENCE = 5.0  # seconds to wait for a server's first sign of life
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_LIMITS = {  # MLflow's own defaults retry a dead server for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@dataclass(frozen=True, slots=True)
class TraceStamp:
    """One trace of an experiment, without its spans."""

    trace_id: str
    began_ms: int  # since 1970
    ended: bool  # False while the request is being answered


@dataclass(frozen=True, slots=True)
class TracePage:
    """Some traces of an experiment."""

    stamps: tuple[TraceStamp, ...]
    documents: Callable[
        [Container[str]], Mapping[str, str]
    ]  # of these ids: id -> the trace as JSON


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One version of a registered model."""

    version: str
    release: (
        str | None
    )  # digest of its release bundle; None for a version that Requant did not make
    tags: Mapping[str, str]
    run_id: str | None


class Registry:
    """One MLflow tracking server (or database) and its model registry."""

    def __init__(
        self, tracking_uri: str, registry_uri: str | None = None, artifact_root: str | None = None
    ) -> None:
        """`artifact_root` is where a database without a server keeps files; left out, a folder beside SQLite's."""
        self._tracking_uri = tracking_uri
        self._registry_uri = registry_uri
        self._artifact_root = artifact_root or _beside(tracking_uri)
        self._opened: MlflowClient | None = None
        self._lock = threading.Lock()

    def ping(self) -> None:
        """Return when the registry answers; raises `Unavailable` within seconds when it does not."""
        _reach(self._tracking_uri)
        if self._registry_uri:
            _reach(self._registry_uri)
        with self._client("answer") as client:
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
    ) -> str:
        """Log a run with the graph in the ONNX flavour and register it; the same release gives the same version.

        Raises `BadInput` for bytes that are no ONNX model, `Unavailable`.
        """
        known = self._version_of(model, release)
        if known is not None:
            return known
        with tempfile.TemporaryDirectory() as folder, self._client(f"register {model}") as client:
            with self._run(client, model, run_name, {**tags, _RELEASE: release}) as run_id:
                _log(client, run_id, params, {}, artifacts)
                log_data(client, run_id, card)
                model_id = log_onnx(client, run_id, model, onnx_bytes, Path(folder), card.kind)
                log_judged(client, run_id, model_id, metrics, card)
            with _unless_taken():
                client.create_registered_model(model)
            describe_model(client, model, card)
            source = self._source(client, model_id)
            named = {**tags, _RELEASE: release}
            made = client.create_model_version(
                model,
                source,
                run_id,
                tags=named,
                model_id=model_id,
                description=card.about_version or None,
            )
            link_version(client, model_id, model, str(made.version))
            return str(made.version)

    def set_tags(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version, keeping its others; raises `NotFound`, `Unavailable`."""
        with self._client(f"tag version {version} of {model}") as client:
            for name, value in tags.items():
                client.set_model_version_tag(_checked(model), version, name, value)

    def aliases(self, model: str) -> dict[str, str]:
        """Alias to version; empty for a model that has no version yet."""
        try:
            with self._client(f"read the aliases of {model}") as client:
                found = client.get_registered_model(_checked(model)).aliases
        except NotFound:
            return {}
        return {str(alias): str(version) for alias, version in found.items()}

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point the alias at the version; raises `NotFound`, `Unavailable`."""
        with self._client(f"set the alias {alias} of {model} to version {version}") as client:
            client.get_model_version(
                _checked(model), version
            )  # not every server refuses an alias to nothing
            client.set_registered_model_alias(model, alias, version)

    def delete_alias(self, model: str, alias: str) -> None:
        """Remove the alias; an absent one is fine."""
        with (
            contextlib.suppress(NotFound),
            self._client(f"delete the alias {alias} of {model}") as client,
        ):
            if alias in client.get_registered_model(_checked(model)).aliases:
                client.delete_registered_model_alias(model, alias)

    def version(self, model: str, version: str) -> RegisteredVersion:
        """One version; raises `NotFound`, `Unavailable`."""
        with self._client(f"read version {version} of {model}") as client:
            return _registered(client.get_model_version(_checked(model), version))

    def versions(self, model: str) -> tuple[RegisteredVersion, ...]:
        """Every version, oldest first; empty for an unknown model."""
        return self._search(model, f"name = '{_checked(model)}'")

    def log_run(
        self,
        model: str,
        run_name: str,
        params: Mapping[str, str],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, bytes],
        parent: str | None = None,
    ) -> str:
        """Log a finished run under the model's experiment and return its id; raises `Unavailable`."""
        nesting = {"mlflow.parentRunId": parent} if parent else {}
        with (
            self._client(f"log the run {run_name} of {model}") as client,
            self._run(client, model, run_name, {**tags, **nesting}) as run_id,
        ):
            _log(client, run_id, params, metrics, artifacts)
        return run_id

    def artifact(self, run_id: str, path: str) -> bytes:
        """One file of a run; raises `NotFound`, `Unavailable`."""
        with (
            tempfile.TemporaryDirectory() as folder,
            self._client(f"read the artifact {path} of {run_id}") as client,
        ):
            parent = path.rpartition("/")[0]
            if not any(
                item.path == path and not item.is_dir
                for item in client.list_artifacts(run_id, parent or None)
            ):
                raise NotFound(
                    f"The run {run_id} has no artifact {path}: see the run's page for what it has."
                )
            return Path(client.download_artifacts(run_id, path, folder)).read_bytes()

    def try_files(self) -> str:
        """Write a small file where runs keep theirs, read it back, delete it, and return the place.

        The database may answer while the files behind it cannot be reached. Raises `Unavailable`.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        name = f"probe-{secrets.token_hex(8)}"
        with tempfile.TemporaryDirectory() as folder, self._client("write a file") as client:
            root = (
                self._artifact_root or client.search_experiments(max_results=1)[0].artifact_location
            )
            place = f"{root.rstrip('/')}/requant-doctor"
            files = get_artifact_repository(place, tracking_uri=self._tracking_uri)
            (Path(folder) / name).write_text(name)
            files.log_artifact(str(Path(folder) / name))
            read = Path(files.download_artifacts(name, str(Path(folder)))).read_text()
            files.delete_artifacts(name)
        if read != name:
            raise Unavailable(
                f"The files of {without_password(self._tracking_uri)} at {root} come back otherwise than written."
            )
        return str(root)

    def traces(self, experiment: str) -> Iterator[str]:
        """Every trace of an experiment as JSON (`Trace.to_json`), oldest first, a page in memory at a time.

        Raises `NotFound` when there is no experiment of that name, `Unavailable`.
        """
        for documents, _ in self._trace_pages(experiment, 0, lambda trace: str(trace.to_json())):
            yield from documents

    def trace_pages(self, experiment: str, since_ms: int) -> Iterator[TracePage]:
        """The traces of an experiment that began at `since_ms` or later, oldest first, a page at a time.

        Their spans stay on the server until they are asked for.
        Raises `NotFound` when there is no experiment of that name, `Unavailable`.
        """

        def documents(token: str | None, wanted: Container[str]) -> Mapping[str, str]:
            read = partial(_document, wanted)
            page, _ = next(self._trace_pages(experiment, since_ms, read, token=token))
            return dict(filter(None, page))

        for stamps, token in self._trace_pages(experiment, since_ms, _stamp, spans=False):
            yield TracePage(tuple(stamps), partial(documents, token))

    def _trace_pages(
        self,
        experiment: str,
        since_ms: int,
        read: Callable[[Any], _T],
        *,
        spans: bool = True,
        token: str | None = None,
    ) -> Iterator[tuple[list[_T], str | None]]:
        """What `read` makes of each trace of a page, and the token that the page was asked for with."""
        place = self._experiment_id(experiment)
        while True:
            with self._client(f"read the traces of {experiment}") as client:
                page = client.search_traces(
                    locations=[place],
                    filter_string=f"timestamp_ms >= {since_ms}" if since_ms else None,
                    max_results=_TRACES,
                    order_by=["timestamp_ms ASC"],
                    page_token=token,
                    include_spans=spans,
                )
                traces = [read(trace) for trace in page]
            yield traces, token
            token = page.token
            if not token:
                return

    def _experiment_id(self, experiment: str) -> str:
        with self._client(f"find the experiment {experiment}") as client:
            found = client.get_experiment_by_name(experiment)
        if found is None:
            raise NotFound(
                f"The registry {without_password(self._tracking_uri)} has no experiment {experiment!r}: check the name."
            )
        return str(found.experiment_id)

    def _version_of(self, model: str, release: str) -> str | None:
        if not re.fullmatch(r"[A-Za-z0-9:._-]+", release):
            raise BadInput(
                f"{release!r} is no release digest: give the one that write_release returned."
            )
        found = self._search(model, f"name = '{_checked(model)}' and tags.{_RELEASE} = '{release}'")
        return found[0].version if found else None

    def _search(self, model: str, query: str) -> tuple[RegisteredVersion, ...]:
        found: list[RegisteredVersion] = []
        token = None
        with self._client(f"list the versions of {model}") as client:
            while True:
                page = client.search_model_versions(query, page_token=token)
                found += [_registered(one) for one in page]
                token = page.token
                if not token:
                    return tuple(sorted(found, key=lambda one: int(one.version)))

    def _source(self, client: MlflowClient, model_id: str) -> str:
        """A server takes the logged model by id alone; a database would look that id up at MLflow's global URI."""
        if self._tracking_uri.startswith(("http://", "https://")):
            return f"models:/{model_id}"
        return str(client.get_logged_model(model_id).artifact_location)

    @contextlib.contextmanager
    def _run(
        self, client: MlflowClient, model: str, name: str, tags: Mapping[str, str]
    ) -> Iterator[str]:
        """A run that ends as finished, or as failed when the block raises."""
        experiment = self._experiment(client, _checked(model))
        run_id = str(client.create_run(experiment, run_name=name).info.run_id)
        try:
            _log_tags(client, run_id, tags)
            yield run_id
        except BaseException:
            with contextlib.suppress(Exception):  # the first failure is the one to report
                client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id)

    def _experiment(self, client: MlflowClient, model: str) -> str:
        found = client.get_experiment_by_name(model)
        if found is None:
            location = f"{self._artifact_root.rstrip('/')}/{model}" if self._artifact_root else None
            with _unless_taken():
                client.create_experiment(model, artifact_location=location, tags=EXPERIMENT_TAGS)
            found = client.get_experiment_by_name(model)
        describe_experiment(client, found.experiment_id, found.tags)
        return str(found.experiment_id)

    @contextlib.contextmanager
    def _client(self, doing: str) -> Iterator[MlflowClient]:
        """The client, with every failure inside the block translated."""
        with self._lock:
            if self._opened is None:
                for uri in filter(None, (self._tracking_uri, self._registry_uri)):
                    _reach(uri)
                with _translated(self._tracking_uri, "open"):
                    self._opened = _open(self._tracking_uri, self._registry_uri)
        with _translated(self._tracking_uri, doing):
            yield self._opened


def _open(tracking_uri: str, registry_uri: str | None) -> MlflowClient:
    for name, value in _LIMITS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    with _one_at_a_time(tracking_uri):
        client = MlflowClient(tracking_uri, registry_uri or tracking_uri)
        client.search_experiments(max_results=1)
        return client


def _stamp(trace: Any) -> TraceStamp:
    """Of MLflow's `Trace`."""
    info = trace.info
    return TraceStamp(info.trace_id, info.request_time, info.state.value != "IN_PROGRESS")


def _document(wanted: Container[str], trace: Any) -> tuple[str, str] | None:
    """Id and JSON of a trace that is wanted."""
    name = str(trace.info.trace_id)
    return (name, trace.to_json()) if name in wanted else None


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """MLflow creates a fresh SQLite database's tables without a lock: two first commands would trip each other."""
    path = _sqlite_file(uri)
    if path is None:
        yield
        return
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _reach(uri: str) -> None:
    """Fail early and clearly where MLflow would retry for minutes; raises `Unavailable`."""
    try:
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https"):
            httpx.get(f"{uri.rstrip('/')}/health", timeout=_PATIENCE)
        elif (path := _sqlite_file(uri)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA schema_version")
        elif parts.hostname:
            port = parts.port or _PORTS.get(parts.scheme.partition("+")[0], 5432)
            socket.create_connection((parts.hostname, port), timeout=_PATIENCE).close()
    except (httpx.HTTPError, httpx.InvalidURL, sqlite3.Error, OSError, ValueError) as error:
        raise Unavailable(
            f"The registry {without_password(uri)} does not answer ({error}): start it or correct its address."
        ) from error


@contextlib.contextmanager
def _translated(uri: str, doing: str) -> Iterator[None]:
    """Turn whatever MLflow and its backends raise into our errors, chained."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    vendors = (
        MlflowException,
        RequestException,
        SQLAlchemyError,
        Boto3Error,
        BotoCoreError,
        ClientError,
        OSError,
    )
    try:
        yield
    except vendors as error:
        raise _ours(
            error, getattr(error, "error_code", ""), without_password(uri), doing
        ) from error


def _ours(error: Exception, code: str, uri: str, doing: str) -> RequantError:
    text = " ".join(str(error).split())[:300]
    if code in _NOT_FOUND:
        return NotFound(
            f"The registry {uri} could not {doing}, because there is no such thing ({text}): check the name."
        )
    if code in _BAD_INPUT:
        return BadInput(
            f"The registry {uri} could not {doing}, because it did not accept it ({text}): correct it."
        )
    return Unavailable(
        f"The registry {uri} could not {doing} ({text}): check that it and its file store are up."
    )


@contextlib.contextmanager
def _unless_taken() -> Iterator[None]:
    """Somebody else making the same thing first is as good."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in _TAKEN:
            raise


def _log(
    client: MlflowClient,
    run_id: str,
    params: Mapping[str, str],
    metrics: Mapping[str, float],
    artifacts: Mapping[str, bytes],
) -> None:
    from mlflow.entities import Metric, Param

    stamp = int(time.time() * 1000)
    for names in _batches(params):
        client.log_batch(run_id, params=[Param(name, str(params[name])) for name in names])
    for names in _batches(metrics):
        client.log_batch(
            run_id, metrics=[Metric(name, float(metrics[name]), stamp, 0) for name in names]
        )
    if artifacts:
        with tempfile.TemporaryDirectory() as folder:
            for path, data in artifacts.items():
                _write(Path(folder), path, data)
            client.log_artifacts(run_id, folder)


def _write(folder: Path, path: str, data: bytes) -> None:
    target = (folder / path).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise BadInput(
            f"The artifact path {path!r} leaves the run's folder: use a relative path without '..'."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def _log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    for names in _batches(tags):
        client.log_batch(run_id, tags=[RunTag(name, str(tags[name])) for name in names])


def _batches(names: Mapping[str, _T]) -> Iterator[list[str]]:
    rest = iter(names)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _registered(found: Any) -> RegisteredVersion:
    tags = {str(key): str(value) for key, value in found.tags.items()}
    return RegisteredVersion(str(found.version), tags.get(_RELEASE), tags, found.run_id or None)


def _checked(model: str) -> str:
    if _MODEL.fullmatch(model) is None:
        raise BadInput(
            f"The model name {model!r} cannot be registered: use letters, digits, '.', '_' and '-'."
        )
    return model


def _sqlite_file(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return (
        Path(unquote(uri.removeprefix(prefix).partition("?")[0]))
        if uri.startswith(prefix)
        else None
    )


def _beside(uri: str) -> str | None:
    """MLflow would put a database's files into ./mlruns of wherever the command runs."""
    path = _sqlite_file(uri)
    return (path.absolute().parent / "artifacts").as_uri() if path else None
