"""The gateway of a workspace: every model that has a champion, behind the guard."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.types import ASGIApp

from flows.gateway.capturing import traffic_writer
from flows.gateway.follower import Follower
from flows.gateway.openai_api.completions import completion_routes
from flows.gateway.openai_api.described import described
from flows.gateway.openai_api.embeddings import embedding_routes
from flows.gateway.openai_api.transcriptions import transcription_routes
from flows.gateway.steering.deliverer import Deliverer
from flows.gateway.steering.opening import OpenReleases
from infra.access.roles import ANY, EVERY, Needs, Role
from infra.errors import NotFound
from infra.gateway.application import Gateway
from infra.gateway.batching import DynamicBatcher
from infra.gateway.capture import Capture, bytes_of
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.steering.shadow import ShadowRuns
from infra.gateway.tracing import traced
from infra.gateway.wire.request_ids import RequestIds
from infra.processes.serve import Guarded
from infra.settings import Settings, settings
from tasks.publishing.served_by import why_not_served
from tasks.specs.registration import model_names
from tasks.traffic.storage.parts import STORED_WITHIN_S

if TYPE_CHECKING:
    from infra.gateway.over_grpc.server import GrpcServer

_log = logging.getLogger(__name__)
OF_ITS_MODEL = "{model}"
"""The model of the path or body: `Gateway.endpoint` asks for its viewers."""
OPEN_S = 90.0
"""Seconds that one of several workers takes at most to open what it serves before it answers."""
LOOK_S = 5.0
"""Seconds between two looks at what is registered."""


class ServedModels:
    """The endpoints of a workspace; a model that is registered later joins within seconds."""

    def __init__(self, chosen: Settings, only: Sequence[str] = ()) -> None:
        """Serve all registered models, or only those.

        Raises:
            NotFound: One of those is not registered.
        """
        self._settings, self._only = chosen, tuple(only)
        self.metrics = GatewayMetrics()
        self.endpoints: dict[str, Endpoint] = {}
        self.gateway = Gateway(self.endpoints, self.metrics, version("requant"))
        self._releases = OpenReleases(chosen)
        self._followers: list[Follower | Deliverer] = []
        registered = model_names(chosen.store())
        missing = sorted(set(only) - set(registered))
        if missing:
            raise NotFound(
                f"no model is called {missing[0]!r}: registered are "
                f"{', '.join(registered) or 'none'}"
            )

    def join(self) -> None:
        """Take in the models that are registered and not served yet."""
        for name in self._only or model_names(self._settings.store()):
            if name not in self.endpoints and why_not_served(name) is None:
                self._add(name)

    def application(self) -> ASGIApp:
        """Return the ASGI application that serves them while it lives."""
        return traced(RequestIds(self.routed()))

    def routed(self) -> Starlette:
        """Return its routes, before what goes round each request."""
        routes = [
            *embedding_routes(self.gateway),
            *completion_routes(self.gateway),
            *transcription_routes(self.gateway),
        ]
        return self.gateway.application(self._lifespan, routes, described())

    def _add(self, name: str) -> None:
        capture = Capture(
            name,
            traffic_writer(self._settings, name),
            self.metrics,
            fraction=self._settings.gateway_capture,
            size_of=bytes_of,
            interval_s=STORED_WITHIN_S,
        )
        batcher = DynamicBatcher(name, self.metrics)
        shadows = ShadowRuns(name, batcher, self.metrics)
        endpoint = Endpoint(name, batcher, self.metrics, capture, shadows=shadows)
        self.endpoints[name] = endpoint
        follower = Follower(endpoint, self._releases, keep_s=self._settings.gateway_keep_s)
        deliverer = Deliverer(endpoint, self._releases, judges=self._settings.gateway_workers)
        self._followers += [follower, deliverer]
        capture.start()
        follower.start()
        deliverer.start()

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(self.join)
        if self.metrics.shared:  # another worker answers until this one can
            await asyncio.to_thread(self._open_all)
        looking = asyncio.create_task(self._look())
        grpc_server = await self._speak_grpc()
        try:
            yield
        finally:
            looking.cancel()
            if grpc_server is not None:
                await grpc_server.stop()
            for follower in self._followers:
                follower.stop()
            for endpoint in self.endpoints.values():
                await endpoint.batcher.drain()
                if endpoint.capture is not None:
                    await asyncio.to_thread(endpoint.capture.close)

    def _open_all(self) -> None:
        """Wait until each champion was opened, or refused."""
        until = time.monotonic() + OPEN_S
        for follower in self._followers:
            if isinstance(follower, Follower):
                follower.looked.wait(max(0.0, until - time.monotonic()))

    async def _speak_grpc(self) -> GrpcServer | None:
        """Start the gRPC side where a port is set for it."""
        port = self._settings.gateway_grpc_port
        if port is None:
            return None
        from infra.gateway.over_grpc.server import GrpcServer  # brings gRPC, which few need

        server = GrpcServer(
            self.gateway,
            self._settings.secret().key,
            version("requant"),
            directory=self._settings.directory(),
        )
        _log.warning("gRPC is spoken at 127.0.0.1:%d", await server.start(port))
        return server

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.join)


def application() -> Guarded:
    """Return the gateway of this process's workspace, for `infra.processes.serve`."""
    chosen = settings()
    only = [name for name in chosen.gateway_models.split(",") if name]
    return Guarded(ServedModels(chosen, only).application(), role_of=role_of)


ROLES: Mapping[str, Needs] = {
    "GET /": (Role.VIEWER, ANY),
    "GET /v2": (Role.VIEWER, ANY),
    "GET /openapi.json": (Role.VIEWER, ANY),
    "GET /v2/health/live": (Role.VIEWER, ANY),
    "GET /v2/health/ready": (Role.VIEWER, ANY),
    "POST /v2/repository/index": (Role.VIEWER, ANY),
    "GET /v1/models": (Role.VIEWER, ANY),
    "GET /metrics": (Role.VIEWER, EVERY),
    "GET /v2/models/{model}": (Role.VIEWER, OF_ITS_MODEL),
    "GET /v2/models/{model}/ready": (Role.VIEWER, OF_ITS_MODEL),
    "POST /v2/models/{model}/infer": (Role.VIEWER, OF_ITS_MODEL),
    "GET /v2/models/{model}/versions/{version}": (Role.VIEWER, OF_ITS_MODEL),
    "GET /v2/models/{model}/versions/{version}/ready": (Role.VIEWER, OF_ITS_MODEL),
    "POST /v2/models/{model}/versions/{version}/infer": (Role.VIEWER, OF_ITS_MODEL),
    "POST /v1/embeddings": (Role.VIEWER, OF_ITS_MODEL),
    "POST /v1/chat/completions": (Role.VIEWER, OF_ITS_MODEL),
    "POST /v1/completions": (Role.VIEWER, OF_ITS_MODEL),
    "POST /v1/audio/transcriptions": (Role.VIEWER, OF_ITS_MODEL),
}
"""Method and path -> what it needs; lists name only the models that the caller may view."""


def role_of(method: str, path: str) -> Needs:
    """Return what a request needs before its model is known."""
    role, model = ROLES.get(f"{method} {path}", (Role.VIEWER, OF_ITS_MODEL))
    return role, ANY if model == OF_ITS_MODEL else model
