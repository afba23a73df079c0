"""Everything at once on one machine: Prefect, MLflow, Evidently, the schedules and the console, until Ctrl-C."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import httpx

from flows.runtime import server, using
from infra.errors import Unavailable
from infra.settings import Settings

POLL_S = 0.5
START_TIMEOUT_S = 90


Ready = Callable[[Mapping[str, str]], None]
"""Called with the address of every service once all answer."""


def run(settings: Settings, ready: Ready) -> None:
    """Start what the settings do not already name, tell the addresses, and wait; stops cleanly."""
    for asked in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs start with SIGINT ignored
        signal.signal(asked, lambda *_: _interrupt())
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        try:
            _run(settings, ready, stack, processes)
        except KeyboardInterrupt:
            print("stopping", file=sys.stderr)
            for process in processes:  # all at once; the stack then waits for each
                _ask_to_stop(process)


def _run(settings: Settings, ready: Ready, stack: ExitStack, processes: list[subprocess.Popen[bytes]]) -> None:
    addresses: dict[str, str] = {}
    api = settings.prefect_api_url or stack.enter_context(server(settings, settings.prefect_port, services=True))
    stack.enter_context(using(api))
    addresses["Prefect"] = api.removesuffix("/api")
    if settings.mlflow_tracking_uri:
        addresses["MLflow"] = settings.mlflow_tracking_uri
    else:
        processes.append(stack.enter_context(_process(settings, "mlflow", _mlflow(settings))))
        address = f"http://127.0.0.1:{settings.mlflow_port}"
        _await(f"{address}/health", processes[-1], "MLflow")
        addresses["MLflow"] = address
    processes.append(stack.enter_context(_process(settings, "evidently", _evidently(settings))))
    address = f"http://127.0.0.1:{settings.evidently_port}"
    _await(f"{address}/api/version", processes[-1], "Evidently")
    addresses["Evidently"] = address
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")  # a person who pressed a button waits
    processes.append(stack.enter_context(_process(settings, "schedules", ["-m", "flows.deployments"])))
    token = os.environ.setdefault("REQUANT_CONSOLE_TOKEN", secrets.token_urlsafe(24))
    command = ["-m", "dashboards.console", "--port", str(settings.console_port)]
    processes.append(stack.enter_context(_process(settings, "console", command)))
    address = f"http://127.0.0.1:{settings.console_port}"
    _await(f"{address}/health", processes[-1], "the console")
    addresses["console"] = f"{address}/?token={token}"
    ready(addresses)
    while True:
        for process in processes:
            if process.poll() is not None:
                raise Unavailable(f"a service stopped (exit {process.returncode}): see {settings.root / 'logs'}")
        time.sleep(POLL_S)


def _mlflow(settings: Settings) -> list[str]:
    return [
        *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(settings.mlflow_port), "--workers", "1"),
        *("--backend-store-uri", settings.mlflow_uri),
        *("--default-artifact-root", (settings.root / "artifacts").as_uri()),
    ]


def _evidently(settings: Settings) -> list[str]:
    """Its UI over the workspace that drift reports are kept in; its pages bring all their scripts along."""
    folder = settings.root / "evidently"
    folder.mkdir(parents=True, exist_ok=True)
    port = str(settings.evidently_port)
    return ["-m", "evidently.cli", "ui", "--host", "127.0.0.1", "--port", port, "--workspace", str(folder)]


@contextmanager
def _process(settings: Settings, name: str, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process in a group of its own, so that Ctrl-C reaches it only through us; ended with its children."""
    logs = settings.root / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter
            [sys.executable, *arguments], stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            _stop(process)


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    _ask_to_stop(process)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(address: str, process: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(f"{what} stopped while starting (exit {process.returncode}): is its port taken?")
        try:
            if httpx.get(address, timeout=2).is_success:
                return
        except httpx.HTTPError:
            time.sleep(POLL_S)
    raise Unavailable(f"{what} did not answer at {address} within {START_TIMEOUT_S} s")


def _interrupt() -> None:
    raise KeyboardInterrupt
