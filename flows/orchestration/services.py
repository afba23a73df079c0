"""The servers that a workspace starts for itself.

Each is behind the guard, on 127.0.0.1, and lives no longer than its starter.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from infra.access.guard import HEALTH, proof
from infra.access.secret import WorkspaceSecret
from infra.addresses import noted_addresses, notes_of
from infra.errors import Unavailable
from infra.processes.supervision import (
    SupervisedProcess,
    ask_to_stop,
    listening_socket,
    port_of,
    running,
)
from infra.processes.warm import WarmStart, running_copy
from infra.settings import Settings

START_TIMEOUT_S = 120
POLL_S = 0.1
HOST = "infra.processes.serve"
"""The module that serves an application."""
IMPORTED_BY_RUNS = (
    *("flows.deployments", "flows.schedules", "flows.gateway.steering.incidents"),
    *("prefect.flow_engine", "prefect.task_engine", "prefect.runner", "anyio._backends._asyncio"),
    *("infra.registry.imported", "infra.keys.ring", "infra.stores.local", "boto3"),
)
"""What runs import, and what starts them: the warm process has it once everything has begun."""


@dataclass(frozen=True, slots=True)
class Service:
    """One server: its name, the application behind the guard, and its port's setting."""

    name: str
    title: str
    application: str  # module:factory
    port_setting: str
    # Whether nothing rests on it: it is started once somebody visits its port.
    on_visit: bool = False
    # What the warm process imports for it; where it is None, a fresh interpreter starts instead.
    imported: tuple[str, ...] | None = ()


PREFECT = Service(
    "prefect",
    "Prefect",
    "flows.orchestration.server:application",
    "prefect_port",
    imported=(HOST, "prefect.server.api.server"),
)
MLFLOW = Service("mlflow", "MLflow", "infra.tracking_server:application", "mlflow_port", True)
EVIDENTLY = Service(
    "evidently", "Evidently", "tasks.drift.report.server:application", "evidently_port", True
)
GATEWAY = Service(  # its memory is watched, and is to be its own
    "gateway",
    "Gateway",
    "flows.gateway.application:application",
    "gateway_port",
    imported=None,
)
CONSOLE = Service(
    "console",
    "the console",
    "dashboards.console.app:application",
    "console_port",
    imported=("dashboards.console.app",),
)


@dataclass(frozen=True, slots=True)
class Started:
    """A service that answers."""

    service: Service
    address: str  # http://127.0.0.1:PORT
    process: SupervisedProcess


@contextmanager
def started(
    settings: Settings,
    services: Mapping[Service, socket.socket],
    *,
    environment: Mapping[str, str] | None = None,
    warm: WarmStart | None = None,
    ahead: Sequence[str] = (),
) -> Iterator[tuple[Started, ...]]:
    """Start services side by side, wait until all answer, and stop them all afterwards.

    Args:
        settings: Whose workspace is served.
        services: Which servers, each with the socket that `listen` opened for it.
        environment: Variables beside this process's own.
        warm: What they begin from; each in a fresh interpreter where there is none.
        ahead: What it imports, once they have begun, for those that come later.

    Raises:
        Unavailable: One did not answer in time, or stopped.
    """
    variables = {"REQUANT_WORKSPACE": str(settings.root), **(environment or {})}
    with ExitStack() as stack:
        begun = []
        # What needs no other process comes first: the warm one imports for the rest meanwhile.
        for service, opened in sorted(
            services.items(), key=lambda one: one[0].imported is not None
        ):
            copied, address = None if service.imported is None else warm, address_of(opened)
            if copied is not None:
                with suppress(OSError):
                    copied.import_modules(service.imported or ())
            process = stack.enter_context(
                process_of(
                    HOST,
                    (service.name, service.application),
                    name=service.name,
                    log=log_of(settings, service.name),
                    environment=variables,
                    warm=copied,
                    sockets={"--fd": opened},
                )
            )
            begun.append(Started(service, address, process))
        if warm is not None:
            with suppress(OSError):
                warm.import_modules(ahead)
        for server in begun:
            await_answer(server, settings.secret(), log_of(settings, server.service.name))
        try:
            yield tuple(begun)
        finally:
            for server in begun:
                ask_to_stop(server.process)  # all at once; the stack then waits for each


@contextmanager
def process_of(
    module: str,
    arguments: Sequence[str],
    *,
    name: str,
    log: Path,
    environment: Mapping[str, str],
    warm: WarmStart | None,
    sockets: Mapping[str, socket.socket] | None = None,
) -> Iterator[SupervisedProcess]:
    """Run a module as a copy of the warm process, or afresh where there is none any more.

    Args:
        module: What runs, as `__main__`; it calls `end_with_parent`.
        arguments: Its arguments.
        name: What lists of processes call it.
        log: Where its output goes.
        environment: Variables beside this process's own.
        warm: What it begins from.
        sockets: Option -> socket that is handed on; the option names its number.
    """
    handed = dict(sockets or {})
    with ExitStack() as stack:
        process: SupervisedProcess | None = None
        if warm is not None:
            with suppress(OSError):
                process = stack.enter_context(
                    running_copy(
                        warm,
                        module,
                        arguments,
                        name=name,
                        log=log,
                        environment=environment,
                        sockets=handed,
                    )
                )
        if process is None:
            numbered = [word for pair in handed.items() for word in (pair[0], _number(pair[1]))]
            command = ("-m", module, *arguments, *numbered)
            process = stack.enter_context(
                running(command, log, environment=environment, sockets=handed.values())
            )
        yield process


def _number(opened: socket.socket) -> str:
    return str(opened.fileno())


def address_of(opened: socket.socket) -> str:
    """Return where a browser reaches a listening socket."""
    return f"http://127.0.0.1:{port_of(opened)}"


def log_of(settings: Settings, name: str) -> Path:
    """Return the file that a process of the workspace writes what it has to say to."""
    return settings.root / "logs" / f"{name}.log"


def listen(settings: Settings, service: Service) -> socket.socket:
    """Open the service's port: the one that was set, or a free one where the default is taken."""
    fixed = service.port_setting in settings.model_fields_set
    return listening_socket(getattr(settings, service.port_setting), fixed=fixed)


def answers_as_ours(address: str, service: Service, secret: WorkspaceSecret) -> bool:
    """Tell whether this workspace's own service answers there.

    Nothing secret is sent to find out.
    """
    nonce = secrets.token_hex(16)
    with suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
        answer = httpx.get(f"{address}{HEALTH}", params={"nonce": nonce}, timeout=5)
        return bool(
            answer.json()["proof"]
            == proof(secret, service.name, urlsplit(address).port or 80, nonce)
        )
    return False


@contextmanager
def announced(settings: Settings, addresses: Mapping[str, str]) -> Iterator[None]:
    """Note where a workspace's services listen while the block lasts, for its commands to find."""
    path = notes_of(settings.root)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"version": 1, "addresses": dict(addresses)}))
    partial.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running_address(settings: Settings, service: Service) -> str | None:
    """Return where the workspace's own service answers.

    A note of one that was killed does not count.
    """
    address = noted_addresses(settings.root).get(service.name)
    if address is not None and answers_as_ours(address, service, settings.secret()):
        return address
    return None


def served_mark(settings: Settings) -> Path:
    """Return the file that is there once every deployment is served."""
    return settings.root / "run" / "served"


def neighbours(settings: Settings, *, host: str = "127.0.0.1") -> dict[str, str]:
    """Return title -> address of what runs beside the console.

    The name is the one that its reader calls this machine by. Cookies know no ports: the session
    that opened the console opens these too.
    """
    noted = noted_addresses(settings.root)
    return {
        service.title: noted[service.name].replace("//127.0.0.1:", f"//{host}:")
        for service in (PREFECT, MLFLOW, EVIDENTLY)
        if noted.get(service.name, "").startswith(("http://", "https://"))
    }


def await_answer(begun: Started, secret: WorkspaceSecret, log: Path) -> None:
    """Wait until a service answers as this workspace's own.

    Raises:
        Unavailable: It did not in time, or stopped.
    """
    title, process = begun.service.title, begun.process
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(
                f"{title} stopped while starting (exit {process.returncode}): see {log}"
            )
        if answers_as_ours(begun.address, begun.service, secret):
            return
        time.sleep(POLL_S)
    raise Unavailable(
        f"{title} did not answer at {begun.address} within {START_TIMEOUT_S} s: see {log}"
    )
