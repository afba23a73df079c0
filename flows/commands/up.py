"""Everything at once on one machine, until Ctrl-C.

That is Prefect, MLflow, Evidently, the gateway, the schedules and the console.
"""

import fcntl
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from flows.orchestration.identity import process_actor
from flows.orchestration.runtime import server_environment, using
from flows.orchestration.services import (
    CONSOLE,
    EVIDENTLY,
    GATEWAY,
    IMPORTED_BY_RUNS,
    MLFLOW,
    PREFECT,
    START_TIMEOUT_S,
    Service,
    Started,
    address_of,
    announced,
    listen,
    log_of,
    process_of,
    running_address,
    served_mark,
    started,
)
from infra.access.guard import LOGIN
from infra.access.sessions import Sessions
from infra.addresses import without_password
from infra.errors import NotAllowed, Refused, Unavailable
from infra.processes.interruption import Interrupted, ignore_from_now_on, raise_when_asked
from infra.processes.supervision import SupervisedProcess, listening_socket, port_of
from infra.processes.warm import WarmStart, warm_start
from infra.settings import Settings

OURS = (PREFECT, MLFLOW, EVIDENTLY, GATEWAY, CONSOLE)
POLL_S, SERVED_POLL_S = 0.5, 0.1
"""Seconds between two looks at what runs, and at whether the schedules are served yet."""
LASTS_S = 60.0
"""A service that was started again and ends within this time is at fault itself."""
SCHEDULES = "schedules"
"""The name of the log of what runs the schedules."""
LEVELS = {"PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
"""What runs and what starts them log: read while Prefect is imported, so by the warm process."""
SETTLE = "flows.orchestration.warm_runs:settle"
"""What each copy of the warm process calls first; named, so that Prefect is not imported here."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens."""

    console: str  # a link that opens a session
    services: Mapping[str, str]  # title -> address
    moved: tuple[str, ...]  # what listens elsewhere than usual, and why


@dataclass(slots=True)
class Everything:
    """What runs."""

    services: list[Started]
    schedules: SupervisedProcess
    environment: Mapping[str, str]  # of the services
    sleeping: dict[Service, socket.socket]  # services that nobody has visited yet
    warm: WarmStart  # what processes begin from
    restarted: dict[str, float] = field(
        default_factory=dict
    )  # service -> when, by the monotonic clock


Ready = Callable[[Addresses], None]
"""Called with the addresses once all services answer."""


def run(settings: Settings, ready: Ready) -> None:
    """Start what the settings do not already name, tell the addresses, and wait; stops cleanly.

    Raises:
        Refused: It already runs in this workspace.
        Unavailable: A service did not start, or stopped.
    """
    raise_when_asked()  # a shell's background jobs start with SIGINT ignored
    with _alone(settings), ExitStack() as stack:
        try:
            _watch(settings, _start(settings, ready, stack), stack)
        except Interrupted:
            ignore_from_now_on()  # a second wish of the same kind must not break the end off
            print("stopping", file=sys.stderr)


def link(settings: Settings, console: str, subject: str) -> str:
    """Return an address that opens the console as this person for half a day."""
    return f"{console}/?{LOGIN}={Sessions(settings.secret()).link(subject)}"


def console_address(settings: Settings, console: str) -> str:
    """Return what opens the console: a link, or the bare address where people sign in."""
    try:
        return link(settings, console, process_actor())
    except NotAllowed:
        return console


def _start(settings: Settings, ready: Ready, stack: ExitStack) -> Everything:
    """Start all, and tell the addresses once all answer."""
    elsewhere = _elsewhere(settings)
    opened = {service: listen(settings, service) for service in OURS if service not in elsewhere}
    addresses = {service.name: address_of(socket) for service, socket in opened.items()}
    addresses |= {service.name: address for service, address in elsewhere.items()}
    moved = tuple(
        filter(None, (_moved(settings, service, socket) for service, socket in opened.items()))
    )
    environment = _environment(settings, opened, addresses)
    sleeping = {service: opened[service] for service in opened if service.on_visit}
    for waiting in sleeping.values():
        stack.callback(waiting.close)
    awake = {service: opened[service] for service in opened if not service.on_visit}
    variables = {"REQUANT_WORKSPACE": str(settings.root), **environment, **LEVELS}
    warm = stack.enter_context(
        warm_start(log_of(settings, "warm"), environment=variables, settle=SETTLE)
    )
    services = stack.enter_context(
        started(settings, awake, environment=environment, warm=warm, ahead=IMPORTED_BY_RUNS)
    )
    stack.enter_context(
        using(environment["PREFECT_API_URL"], environment.get("PREFECT_API_AUTH_STRING"))
    )
    schedules = stack.enter_context(_serving(settings, warm))
    pages = {
        name: without_password(address).removesuffix("/api") for name, address in addresses.items()
    }
    stack.enter_context(announced(settings, pages))
    ready(Addresses(console_address(settings, pages[CONSOLE.name]), _titles(pages), moved))
    return Everything(list(services), schedules, environment, sleeping, warm)


@contextmanager
def _serving(settings: Settings, warm: WarmStart) -> Iterator[SupervisedProcess]:
    """Run the schedules, and wait until every deployment is served."""
    mark, log = served_mark(settings), log_of(settings, SCHEDULES)
    mark.unlink(missing_ok=True)
    deadline = time.monotonic() + START_TIMEOUT_S
    with process_of(
        "flows.commands.serving", (), name=SCHEDULES, log=log, environment=LEVELS, warm=warm
    ) as process:
        while not mark.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(
                    f"the schedules are not served (exit {process.returncode}): see {log}"
                )
            time.sleep(SERVED_POLL_S)
        yield process


def _elsewhere(settings: Settings) -> dict[Service, str]:
    """Return the services that the settings name an address of."""
    configured = {PREFECT: settings.prefect_api_url, MLFLOW: settings.mlflow_server}
    return {service: address for service, address in configured.items() if address}


def _environment(
    settings: Settings, opened: Mapping[Service, socket.socket], addresses: Mapping[str, str]
) -> dict[str, str]:
    """Return what every process of this workspace has to know of Prefect."""
    if PREFECT not in opened:
        return {"PREFECT_API_URL": addresses[PREFECT.name]}
    auth = {"PREFECT_API_AUTH_STRING": settings.secret().basic}
    return server_environment(opened[PREFECT], services=True) | auth


def _titles(pages: Mapping[str, str]) -> dict[str, str]:
    return {service.title: pages[service.name] for service in (PREFECT, MLFLOW, EVIDENTLY, GATEWAY)}


def _moved(settings: Settings, service: Service, opened: socket.socket) -> str | None:
    """Tell where a service listens whose usual port is taken; None where it has that port."""
    usual, port = getattr(settings, service.port_setting), port_of(opened)
    return (
        f"port {usual} is taken, so {service.title} listens on {port}"
        if usual not in (0, port)
        else None
    )


def _watch(settings: Settings, everything: Everything, stack: ExitStack) -> None:
    """Look on until told to stop, and end with what the loop rests on.

    Start again what shows and what keeps files, and what is visited for the first time.
    """
    while True:
        for place, service in enumerate(everything.services):
            if service.process.poll() is not None:
                everything.services[place] = _again(settings, service, everything, stack)
        _require_running(settings, SCHEDULES, everything.schedules)
        visited, _, _ = select.select(list(everything.sleeping.values()), [], [], POLL_S)
        for asleep in [name for name, door in everything.sleeping.items() if door in visited]:
            _wake(settings, asleep, everything, stack)


def _wake(settings: Settings, service: Service, everything: Everything, stack: ExitStack) -> None:
    """Start a service that somebody waits for; one that does not start sleeps on, and is told."""
    opened = everything.sleeping.pop(service)
    port = port_of(opened)
    try:
        everything.services += stack.enter_context(
            started(
                settings,
                {service: opened},
                environment=everything.environment,
                warm=everything.warm,
            )
        )
    except Unavailable as error:
        print(f"{service.title} did not start at its first visit: {error}", file=sys.stderr)
        everything.sleeping[service] = listening_socket(port, fixed=True)


def _again(settings: Settings, ended: Started, everything: Everything, stack: ExitStack) -> Started:
    """Start a service again at its port.

    Not one on which the loop rests, nor one that did not last a minute.
    """
    name = ended.service.name
    if (
        ended.service is PREFECT
        or time.monotonic() - everything.restarted.get(name, -LASTS_S) < LASTS_S
    ):
        _require_running(settings, name, ended.process)
    code, everything.restarted[name] = ended.process.returncode, time.monotonic()
    print(
        f"{name} stopped (exit {code}) and is started again: see {log_of(settings, name)}",
        file=sys.stderr,
        flush=True,
    )
    opened = {ended.service: listening_socket(urlsplit(ended.address).port or 0, fixed=True)}
    (begun,) = stack.enter_context(
        started(settings, opened, environment=everything.environment, warm=everything.warm)
    )
    return begun


def _require_running(settings: Settings, name: str, process: SupervisedProcess) -> None:
    if process.poll() is not None:
        raise Unavailable(
            f"{name} stopped (exit {process.returncode}), so everything did: see "
            f"{log_of(settings, name)}, "
            "and start `requant up` again"
        )


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Hold the workspace's lock, which the system frees however this process ends."""
    folder = settings.root / "run"
    folder.mkdir(parents=True, exist_ok=True)
    settings.root.chmod(0o700)  # one that was made before, or by hand
    with (folder / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            console = running_address(settings, CONSOLE)
            where = f" (`requant link` opens its console at {console})" if console else ""
            raise Refused(
                f"`requant up` already runs in {settings.root}{where}: use it, or stop it first"
            ) from error
        yield
