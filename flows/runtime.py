"""One real Prefect server: the configured one, the workspace's running one, or one started for this command."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from infra.errors import Unavailable
from infra.settings import Settings

START_TIMEOUT_S = 90
ADDRESS_FILE = "server.json"


@contextmanager
def orchestrator(settings: Settings) -> Iterator[str]:
    """The API address of a server that answers; flows inside the block report to it.

    Raises `Unavailable` when the configured server does not answer or none can be started.
    """
    if settings.prefect_api_url:
        if not healthy(settings.prefect_api_url):
            raise Unavailable(
                f"Prefect does not answer at {settings.prefect_api_url}: start it, or correct REQUANT_PREFECT_API_URL"
            )
        with using(settings.prefect_api_url):
            yield settings.prefect_api_url
        return
    running = running_server(settings)
    if running is not None:
        with using(running):
            yield running
        return
    with server(settings, free_port(), services=False) as address, using(address):
        yield address


@contextmanager
def server(settings: Settings, port: int, *, services: bool) -> Iterator[str]:
    """A Prefect server process on 127.0.0.1, stopped at the end; `services` adds the scheduler."""
    home = settings.root / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    address = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": address}
    log_path = home / "server.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter
            [*command, *([] if services else ["--no-services", "--no-ui"])], stdout=log, stderr=log, env=environment
        )
        try:
            _await(address, process, log_path)
            if services:
                (home / ADDRESS_FILE).write_text(json.dumps({"address": address, "pid": process.pid}))
            yield address
        finally:
            _stop(process)
            if services:
                (home / ADDRESS_FILE).unlink(missing_ok=True)


@contextmanager
def using(address: str) -> Iterator[None]:
    """Point Prefect's clients in this process, and in processes it starts, at the address."""
    before = os.environ.get("PREFECT_API_URL")
    os.environ["PREFECT_API_URL"] = address
    from prefect.settings import PREFECT_API_URL, temporary_settings

    try:
        with temporary_settings(updates={PREFECT_API_URL: address}):
            yield
    finally:
        if before is None:
            os.environ.pop("PREFECT_API_URL", None)
        else:
            os.environ["PREFECT_API_URL"] = before


def running_server(settings: Settings) -> str | None:
    """The address of the server that `requant up` runs in this workspace, if it answers."""
    with suppress(OSError, ValueError, KeyError):
        address = str(json.loads((settings.root / "prefect" / ADDRESS_FILE).read_text())["address"])
        return address if healthy(address) else None
    return None


def healthy(address: str) -> bool:
    """Whether a Prefect API answers there."""
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(f"the Prefect server stopped while starting (exit {process.returncode}): see {log}")
        if healthy(address):
            return
        time.sleep(0.2)
    raise Unavailable(f"the Prefect server did not answer within {START_TIMEOUT_S} s: see {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
