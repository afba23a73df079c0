"""Where store and registry lie during a campaign, each put back before every trial."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.chaos.children import Child
from benchmarks.chaos.proxy import Proxy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

START_S = 60
CEPH = Path(__file__).parents[2] / "tests" / "services" / "s3.sh"
CEPH_PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "ceph")


class LocalScene:
    """A folder for the store, and SQLite for MLflow."""

    name = "folder"
    proxy: str | None = None  # the address of the proxy before what is elsewhere

    def __init__(self, folder: Path) -> None:
        """Take an empty folder."""
        self.live, self._kept = folder / "live", folder / "kept"
        self.environment: dict[str, str] = {}
        self._put_back: dict[Path, tuple[int, int, int]] = {}

    @property
    def database(self) -> Path:
        """MLflow's."""
        return self.live / "mlflow.db"

    @property
    def database_before(self) -> Path:
        """MLflow's, as it is before each trial."""
        return self._kept / "mlflow.db"

    def keep(self) -> None:
        """Remember what is there now."""
        self.live.rename(self._kept)

    def reset(self) -> None:
        """Put everything back as it was when it was kept; what nobody touched stays."""
        kept = set(_below(self._kept))
        for path in sorted(set(_below(self.live)) - kept, reverse=True):  # files before folders
            there = self.live / path
            there.rmdir() if there.is_dir() and not there.is_symlink() else there.unlink()
        for path in sorted(kept):  # folders before files
            there = self.live / path
            if (self._kept / path).is_dir():
                there.mkdir(parents=True, exist_ok=True)
            elif not there.exists() or _stamp(there) != self._put_back.get(path):
                there.unlink(missing_ok=True)
                shutil.copy2(self._kept / path, there)
                self._put_back[path] = _stamp(there)

    def lose(self, older: Path) -> None:
        """Put another database in the place of MLflow's."""
        for suffix in ("-wal", "-shm"):
            Path(f"{self.database}{suffix}").unlink(missing_ok=True)
        shutil.copy(older, self.database)

    def close(self) -> None:
        """End what was started."""


class BucketScene(LocalScene):
    """A bucket of a real S3 server for store and files of MLflow, behind a proxy; SQLite."""

    def __init__(
        self, name: str, folder: Path, server: tuple[str, str, str], stop: Callable[[], None]
    ) -> None:
        """Take the server's address, access key and secret key, and what stops it."""
        super().__init__(folder)
        self.name, self._stop = name, stop
        endpoint, access, secret = server
        self.proxy, self._proxy = _proxied(endpoint)
        self.environment = {
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "REQUANT_STORE_URL": "s3://chaos/scene",
            "REQUANT_S3_ENDPOINT_URL": self.proxy,
            "MLFLOW_S3_ENDPOINT_URL": self.proxy,
        }
        self._client = _s3_client(endpoint, access, secret)
        self._client.create_bucket(Bucket="chaos")
        self._client.close()
        self._objects: dict[str, tuple[str, bytes]] = {}

    def keep(self) -> None:
        """Remember the objects, too."""
        super().keep()
        for key, tag in self._listed().items():
            body = self._client.get_object(Bucket="chaos", Key=key)["Body"].read()
            self._objects[key] = tag, body
        self._client.close()

    def reset(self) -> None:
        """Put back the objects that changed, too."""
        super().reset()
        listed = self._listed()
        for key in listed.keys() - self._objects.keys():
            self._client.delete_object(Bucket="chaos", Key=key)
        for key, (tag, body) in self._objects.items():
            if listed.get(key) != tag:
                self._client.put_object(Bucket="chaos", Key=key, Body=body)
        self._client.close()  # a fork shares no connection

    def close(self) -> None:
        """Stop the proxy and the server."""
        self._proxy.kill()
        self._stop()

    def _listed(self) -> dict[str, str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket="chaos")
        return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", ())}


class ServerScene(LocalScene):
    """A folder for the store, and MLflow's own server behind a proxy."""

    name = "server"

    def __init__(self, folder: Path) -> None:
        """Start the server on an empty database."""
        super().__init__(folder)
        self._server_folder, self._server_kept = folder / "server", folder / "server-kept"
        self._server_folder.mkdir()
        self._port = _free_port()
        self._app = self._application()
        self.start()
        self.proxy, self._proxy = _proxied(f"http://127.0.0.1:{self._port}")
        self.environment = {"REQUANT_MLFLOW_TRACKING_URI": self.proxy}

    @property
    def database(self) -> Path:
        """The server's."""
        return self._server_folder / "mlflow.db"

    @property
    def database_before(self) -> Path:
        """The server's, as it is before each trial."""
        return self._server_kept / "mlflow.db"

    def keep(self) -> None:
        """Remember the server's database and files, too."""
        super().keep()
        shutil.copytree(self._server_folder, self._server_kept)

    def reset(self) -> None:
        """Put back the server's database, while it runs, and its files, too."""
        super().reset()
        self.lose(self.database_before)
        shutil.rmtree(self._server_folder / "files", ignore_errors=True)
        shutil.copytree(self._server_kept / "files", self._server_folder / "files")

    def lose(self, older: Path) -> None:
        """Put another database in the place of the server's by SQLite's own backup."""
        with (
            closing(sqlite3.connect(older)) as source,
            closing(sqlite3.connect(self.database, timeout=30)) as target,
        ):
            source.backup(target)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self._server = Child(self._serve, tied=True)
        _await(self._port)

    def stop(self) -> None:
        """Kill the server."""
        self._server.kill()

    def close(self) -> None:
        """Stop the proxy and the server."""
        self._proxy.kill()
        self.stop()

    def _application(self) -> object:
        """Return MLflow's application, told what its command line tells it by its environment."""
        from mlflow import server

        files = self._server_folder / "files"
        files.mkdir()
        os.environ |= {
            server.BACKEND_STORE_URI_ENV_VAR: f"sqlite:///{self.database}",
            server.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
            server.SERVE_ARTIFACTS_ENV_VAR: "true",
            server.ARTIFACTS_DESTINATION_ENV_VAR: files.as_uri(),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        from mlflow.server.fastapi_app import app

        return app

    def _serve(self) -> None:
        import uvicorn

        uvicorn.run(self._app, host="127.0.0.1", port=self._port, log_level="critical")  # type: ignore[arg-type]


def moto(folder: Path) -> BucketScene:
    """Return a bucket of moto's server, in a process of its own."""
    port = _free_port()

    def serve() -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        server.start()
        while True:
            time.sleep(60)

    child = Child(serve, tied=True)
    _await(port)
    address = f"http://127.0.0.1:{port}"
    return BucketScene("moto", folder, (address, "moto", "moto-secret"), child.kill)


def radosgw(folder: Path) -> BucketScene:
    """Return a bucket of Ceph's gateway over a store in memory.

    Raises:
        LookupError: It is not installed here.
    """
    missing = [program for program in CEPH_PROGRAMS if shutil.which(program) is None]
    if missing:
        raise LookupError(f"no {', '.join(missing)} here: run tests/services/packages.sh")
    place = tempfile.mkdtemp(prefix="s3-")
    ports = [str(_free_port()), str(_free_port())]
    started = subprocess.run([CEPH, "start", place, *ports], check=True, capture_output=True)
    endpoint, access, secret = started.stdout.decode().split()

    def stop() -> None:
        subprocess.run([CEPH, "stop", place], check=True)
        shutil.rmtree(place)

    return BucketScene("radosgw", folder, (endpoint, access, secret), stop)


PLACES: Mapping[str, Callable[[Path], LocalScene]] = {
    "folder": LocalScene,
    "server": ServerScene,
    "moto": moto,
    "radosgw": radosgw,
}


def _s3_client(endpoint: str, access: str, secret: str) -> S3Client:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=Config(
            request_checksum_calculation="when_required", s3={"addressing_style": "path"}
        ),
    )


def _proxied(target: str) -> tuple[str, Child]:
    proxy = Proxy(target)
    address = f"http://127.0.0.1:{proxy.server_port}"
    child = Child(proxy.serve_forever, tied=True)
    proxy.server_close()  # here; the child has its own
    return address, child


def _below(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in folder.rglob("*")]


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _await(port: int) -> None:
    """Wait until somebody answers there; raises `TimeoutError`."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), closing(HTTPConnection(f"127.0.0.1:{port}")) as asked:
            asked.request("GET", "/health")
            asked.getresponse().read()
            return
        time.sleep(0.05)
    raise TimeoutError(f"Nothing answers at 127.0.0.1:{port} after {START_S} s.")
