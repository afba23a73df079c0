"""One real Prefect server: the configured one, the workspace's running one, or one started for this command."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from flows.services import PREFECT, address_of, running_address, started
from infra.errors import Unavailable
from infra.settings import Settings
from infra.supervision import listening_socket


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
        with using(running, settings.secret().basic):
            yield running
        return
    with server(settings, services=False) as address, using(address, settings.secret().basic):
        yield address


@contextmanager
def server(settings: Settings, *, services: bool) -> Iterator[str]:
    """Start the workspace's own Prefect server at a free port and yield its API's address.

    With `services` it has scheduler and pages.
    """
    opened = listening_socket(0, fixed=True)
    with started(settings, {PREFECT: opened}, environment=server_environment(opened, services=services)) as (prefect,):
        yield f"{prefect.address}/api"


def server_environment(opened: socket.socket, *, services: bool) -> dict[str, str]:
    """Return what Prefect's server reads of its environment, when it will listen on this socket."""
    own = {"PREFECT_API_URL": f"{address_of(opened)}/api", "PREFECT_UI_API_URL": "/api"}
    without = {"PREFECT__SERVER_WEBSERVER_ONLY": "1", "PREFECT_SERVER_UI_ENABLED": "false"}
    return own | {"PREFECT_LOGGING_LEVEL": "WARNING"} | ({} if services else without)


@contextmanager
def using(address: str, auth: str | None = None) -> Iterator[None]:
    """Point Prefect's clients in this process, and in processes it starts, at the address.

    `auth` is the server's "user:password"; left out, whatever the environment says stays.
    """
    given = {"PREFECT_API_URL": address} | ({"PREFECT_API_AUTH_STRING": auth} if auth else {})
    before = {name: os.environ.get(name) for name in given}
    os.environ |= given
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    updates = {PREFECT_API_URL: address} | ({PREFECT_API_AUTH_STRING: auth} if auth else {})
    try:
        with temporary_settings(updates=updates):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def running_server(settings: Settings) -> str | None:
    """Return the API's address of the server that `requant up` runs in this workspace, if it answers."""
    address = running_address(settings, PREFECT)
    return None if address is None else f"{address}/api"


def prefect_environment(settings: Settings) -> dict[str, str]:
    """Return what a process needs to reach the workspace's Prefect: the configured server, or its own running one."""
    if settings.prefect_api_url:
        return {"PREFECT_API_URL": settings.prefect_api_url}
    running = running_server(settings)
    auth = {"PREFECT_API_AUTH_STRING": settings.secret().basic}
    return {} if running is None else {"PREFECT_API_URL": running} | auth


def healthy(address: str) -> bool:
    """Whether a Prefect API answers there."""
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False
