"""Which Prefect server runs are shown on: the configured one, the workspace's own, or none."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from http import HTTPStatus

import httpx

from flows.orchestration.services import PREFECT, address_of, running_address, started
from infra.errors import Unavailable
from infra.processes.supervision import listening_socket
from infra.settings import Settings

HAND_OVER_S = 10.0
"""Seconds for the last log lines and events."""

_in_use: ContextVar[str | None] = ContextVar("in_use", default=None)


@contextmanager
def served(settings: Settings) -> Iterator[str | None]:
    """Let flows inside the block report to the server that is there.

    Without one they run in this process alone.

    Raises:
        Unavailable: when the configured server does not answer.
    """
    (settings.root / "prefect").mkdir(parents=True, exist_ok=True)  # Prefect warns where it cannot
    with _where_known(settings) as address:
        token = _in_use.set(address)
        try:
            yield address
        finally:
            _in_use.reset(token)


@contextmanager
def orchestrator(settings: Settings) -> Iterator[str]:
    """Do as `served`, with a server started for the block where none is there.

    Its runs are kept for later.

    Raises:
        Unavailable: also when none can be started.
    """
    with _where_known(settings) as in_use:
        if in_use is not None:
            yield in_use
            return
    with server(settings, services=False) as address, using(address, settings.secret().basic):
        yield address


@contextmanager
def _where_known(settings: Settings) -> Iterator[str | None]:
    """Use the configured server, or the one that the workspace runs; None where neither is."""
    configured = settings.prefect_api_url
    if configured:
        _require(configured)
        with using(configured):
            yield configured
        return
    running = running_server(settings)
    if running is None:
        yield None
        return
    with using(running, settings.secret().basic):
        yield running


def address_in_use() -> str | None:
    """Return the server that this process's flows report to; None outside of `served`."""
    return _in_use.get()


@contextmanager
def server(settings: Settings, *, services: bool) -> Iterator[str]:
    """Start the workspace's own Prefect server at a free port and yield its API's address.

    With `services` it has scheduler and pages.
    """
    opened = listening_socket(0, fixed=True)
    with started(
        settings, {PREFECT: opened}, environment=server_environment(opened, services=services)
    ) as (prefect,):
        try:
            yield f"{prefect.address}/api"
        finally:
            _say_the_rest()


def _say_the_rest() -> None:
    """Let Prefect's client hand over its last log lines and events.

    It would go on trying for minutes afterwards.
    """
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=HAND_OVER_S, at_exit=False)


def server_environment(opened: socket.socket, *, services: bool) -> dict[str, str]:
    """Return what Prefect's server reads of its environment, when it will listen on this socket."""
    own = {"PREFECT_API_URL": f"{address_of(opened)}/api", "PREFECT_UI_API_URL": "/api"}
    without = {"PREFECT__SERVER_WEBSERVER_ONLY": "1", "PREFECT_SERVER_UI_ENABLED": "false"}
    logs = {"PREFECT_LOGGING_LEVEL": "WARNING", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING"}
    return own | logs | ({} if services else without)


@contextmanager
def using(address: str, auth: str | None = None) -> Iterator[None]:
    """Point Prefect's clients in this process, and in processes it starts, at the address.

    `auth` is the server's "user:password"; left out, whatever the environment says stays.
    """
    variables = {"PREFECT_API_URL": address} | ({"PREFECT_API_AUTH_STRING": auth} if auth else {})
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    imported = "prefect" in sys.modules  # else it reads the environment once it is imported
    try:
        with _told_to_prefect(address, auth) if imported else nullcontext():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if not imported:
            read_environment_again()


@contextmanager
def _told_to_prefect(address: str, auth: str | None) -> Iterator[None]:
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    updates = {PREFECT_API_URL: address} | ({PREFECT_API_AUTH_STRING: auth} if auth else {})
    with temporary_settings(updates=updates):
        yield


def read_environment_again() -> None:
    """Let Prefect's settings, where they were read already, follow this process's environment."""
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def running_server(settings: Settings) -> str | None:
    """Return the API's address of the server that `requant up` runs in this workspace.

    None where it does not answer.
    """
    address = running_address(settings, PREFECT)
    return None if address is None else f"{address}/api"


def prefect_environment(settings: Settings) -> dict[str, str]:
    """Return what a process needs to reach the workspace's Prefect.

    That is the configured server, or its own running one.
    """
    if settings.prefect_api_url:
        return {"PREFECT_API_URL": settings.prefect_api_url}
    running = running_server(settings)
    auth = {"PREFECT_API_AUTH_STRING": settings.secret().basic}
    return {} if running is None else {"PREFECT_API_URL": running} | auth


def healthy(address: str) -> bool:
    """Return whether a Prefect API answers there, and lets this process in."""
    return _health(address) == HTTPStatus.OK


def _health(address: str) -> int | None:
    """Return the status of its answer; None where nothing answers."""
    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    auth = (user, password) if user else None
    try:
        return httpx.get(f"{address}/health", timeout=5, auth=auth).status_code
    except (httpx.HTTPError, httpx.InvalidURL):
        return None


def _require(configured: str) -> None:
    """Raise `Unavailable` unless the configured server answers and lets this process in."""
    status = _health(configured)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise Unavailable(
            f"Prefect at {configured} lets only those in who show its password: "
            "give PREFECT_API_AUTH_STRING as user:password"
        )
    if status != HTTPStatus.OK:
        raise Unavailable(
            f"Prefect does not answer at {configured}: start it, or correct REQUANT_PREFECT_API_URL"
        )
