"""Which Prefect server runs are shown on: the configured one, the workspace's running one, or none."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path

import httpx

from infra.errors import Unavailable
from infra.settings import Settings

START_TIMEOUT_S = 90
ADDRESS_FILE = "server.json"

_in_use: ContextVar[str | None] = ContextVar("in_use", default=None)


@contextmanager
def served(settings: Settings) -> Iterator[str | None]:
    """Flows inside the block report to the server that is there; without one they run in this process alone.

    Raises `Unavailable` when the configured server does not answer.
    """
    (settings.root / "prefect").mkdir(parents=True, exist_ok=True)  # Prefect warns where it cannot
    address = known_server(settings)
    token = _in_use.set(address)
    try:
        with nullcontext() if address is None else using(address):
            yield address
    finally:
        _in_use.reset(token)


@contextmanager
def orchestrator(settings: Settings) -> Iterator[str]:
    """As `served`, with a server started for the block where none is there: its runs are kept for later.

    Raises `Unavailable` also when none can be started.
    """
    address = known_server(settings)
    if address is not None:
        with using(address):
            yield address
        return
    with server(settings, free_port(), services=False) as started, using(started):
        yield started


def known_server(settings: Settings) -> str | None:
    """The address of the configured server, or of the one that the workspace runs; None where there is neither.

    Raises `Unavailable` when the configured one does not answer.
    """
    configured = settings.prefect_api_url
    if configured and not healthy(configured):
        raise Unavailable(f"Prefect does not answer at {configured}: start it, or correct REQUANT_PREFECT_API_URL")
    return configured or running_server(settings)


def address_in_use() -> str | None:
    """The server that this process's flows report to; None outside of `served`, or without one."""
    return _in_use.get()


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
    except (httpx.HTTPError, httpx.InvalidURL):
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
