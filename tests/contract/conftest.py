"""The stores that every adapter test runs on: a folder, moto, and a real S3 server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from infra.stores import ObjectStore, open_store

_SERVICES = Path(__file__).parents[1] / "services"
_PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "ceph")


@dataclass(frozen=True)
class S3Server:
    """Where a server listens, and who may enter."""

    endpoint: str
    access: str
    secret: str

    def new_bucket(self) -> str:
        name = f"requant-{uuid.uuid4().hex[:12]}"
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access,
            aws_secret_access_key=self.secret,
            config=Config(
                request_checksum_calculation="when_required", s3={"addressing_style": "path"}
            ),
        )
        client.create_bucket(Bucket=name)
        return name

    def admit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", self.access)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", self.secret)


def free_ports(count: int) -> list[int]:
    """Return free ports.

    All are bound until the last is drawn: a port that was let go may be drawn again.
    """
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


def free_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield S3Server(f"http://127.0.0.1:{port}", "moto", "moto-secret")
    server.stop()


@pytest.fixture(scope="session")
def radosgw() -> Iterator[S3Server]:
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: install them with tests/services/packages.sh")
    script, folder = str(_SERVICES / "s3.sh"), tempfile.mkdtemp(prefix="s3-")
    ports = [str(port) for port in free_ports(2)]
    try:
        started = subprocess.run(
            [script, "start", folder, *ports], capture_output=True, text=True, timeout=300
        )
        assert started.returncode == 0, started.stderr
        yield S3Server(*started.stdout.split())
    finally:
        subprocess.run([script, "stop", folder], check=True, timeout=60)
        shutil.rmtree(folder)


OpenAgain = Callable[[], ObjectStore]


@pytest.fixture(params=["local", "s3-moto", "s3-radosgw"])
def open_again(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> OpenAgain:
    """Open the same fresh, empty store as often as called, as several processes would."""
    if request.param == "local":
        return lambda: open_store((tmp_path / "store").as_uri())
    server: S3Server = request.getfixturevalue("moto" if request.param == "s3-moto" else "radosgw")
    server.admit(monkeypatch)
    url = f"s3://{server.new_bucket()}/some/prefix"
    return lambda: open_store(url, endpoint_url=server.endpoint)


@pytest.fixture
def store(open_again: OpenAgain) -> ObjectStore:
    return open_again()
