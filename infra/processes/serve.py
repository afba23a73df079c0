"""One ASGI application behind the guard, on an inherited socket.

Run it as `python -m infra.processes.serve SERVICE APPLICATION --fd N`. APPLICATION is
`module:factory`; the factory returns the application and, where it has its own idea of access, how
the guard hands on whom it admitted.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module

import uvicorn
from starlette.types import ASGIApp

from infra.access.guard import Guard, viewer
from infra.access.roles import Needs
from infra.processes.bounded_http import BoundedHttp
from infra.processes.supervision import end_with_parent
from infra.settings import use_workspace

KEEP_ALIVE_S = 5


@dataclass(frozen=True, slots=True)
class Guarded:
    """An application, and what the guard has to know of it."""

    application: ASGIApp
    credentials: dict[str, str] = field(default_factory=dict)  # headers for whoever was admitted
    own_handshake: bool = (
        False  # whether its websockets authenticate programs by their first message
    )
    # Which role a method and path need, of which model.
    role_of: Callable[[str, str], Needs] = viewer


def main() -> None:
    """Serve until stopped, or until whoever started this process is gone."""
    parser = argparse.ArgumentParser(prog="python -m infra.processes.serve", description=__doc__)
    parser.add_argument("service")
    parser.add_argument("application", help="module:factory")
    parser.add_argument(
        "--fd", type=int, required=True, help="a listening socket that was inherited"
    )
    arguments = parser.parse_args()
    end_with_parent()
    chosen = use_workspace(None)
    module, _, factory = str(arguments.application).partition(":")
    make: Callable[[], Guarded] = getattr(import_module(module), factory)
    guarded = make()
    guard = Guard(
        guarded.application,
        arguments.service,
        chosen.secret(),
        credentials=guarded.credentials,
        own_handshake=guarded.own_handshake,
        directory=chosen.directory(),
        oidc=chosen.provider(),
        role_of=guarded.role_of,
    )
    config = uvicorn.Config(
        guard,
        http=BoundedHttp,
        log_level="warning",
        access_log=False,  # addresses may carry a link's token
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=arguments.fd)])


if __name__ == "__main__":
    main()
