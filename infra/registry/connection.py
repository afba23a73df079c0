"""One MLflow client: opened on first use, reached early and clearly, its failures translated.

MLflow is imported on first use: it takes two seconds, and reads its settings from the environment
as it loads. Everything goes through an explicit client, never through MLflow's global URI or active
run, so that threads and several registries in one process do not meet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import httpx

from infra.addresses import without_password
from infra.errors import Unavailable
from infra.registry.vendor_errors import translated

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_PATIENCE = 5.0  # seconds to wait for a server's first sign of life
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_LIMITS = {  # MLflow's own defaults retry a dead server for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class Connection:
    """A tracking server or database, and the registry beside it where that is another one."""

    def __init__(self, tracking_uri: str, registry_uri: str | None = None) -> None:
        self.tracking_uri = tracking_uri
        self._registry_uri = registry_uri
        self._opened: MlflowClient | None = None
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """The tracking URI as people may see it."""
        return without_password(self.tracking_uri)

    @property
    def is_server(self) -> bool:
        """Whether a server answers, and no database is opened from here."""
        return self.tracking_uri.startswith(("http://", "https://"))

    def reach(self) -> None:
        """Return when both answer; raises `Unavailable` within seconds when one does not."""
        for uri in filter(None, (self.tracking_uri, self._registry_uri)):
            _reach(uri)

    @contextlib.contextmanager
    def client(self, doing: str) -> Iterator[MlflowClient]:
        """Yield the client, with every failure inside the block translated.

        `doing` is what the block does, as a verb with its object.
        """
        with self._lock:
            if self._opened is None:
                self.reach()
                with translated(self.tracking_uri, "open"):
                    self._opened = _open(self.tracking_uri, self._registry_uri)
        with translated(self.tracking_uri, doing):
            yield self._opened


def files_beside(uri: str) -> str | None:
    """Return where runs keep files beside a SQLite database; None for other addresses.

    MLflow would put a database's files into ./mlruns of wherever the command runs.
    """
    path = _sqlite_file(uri)
    return (path.absolute().parent / "artifacts").as_uri() if path else None


def _open(tracking_uri: str, registry_uri: str | None) -> MlflowClient:
    for name, value in _LIMITS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    with _one_at_a_time(tracking_uri):
        client = MlflowClient(tracking_uri, registry_uri or tracking_uri)
        client.search_experiments(max_results=1)
        return client


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Let one process at a time open a SQLite database.

    MLflow creates its tables without a lock: two first commands would trip each other.
    """
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
            f"The registry {without_password(uri)} does not answer ({error}): "
            "start it or correct its address."
        ) from error


def _sqlite_file(uri: str) -> Path | None:
    prefix = "sqlite:///"
    if not uri.startswith(prefix):
        return None
    return Path(unquote(uri.removeprefix(prefix).partition("?")[0]))
