"""The gateway's HTTP side: the Open Inference Protocol, health and metrics.

Errors are problem documents (RFC 9457) with the protocol's own member, `"error": "one sentence"`,
and never tell of the inside.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from infra.access import problems
from infra.access.directory import may_view, require_viewer
from infra.errors import BadInput, NotAllowed, NotFound, RequantError
from infra.gateway import openapi
from infra.gateway.batching import Overloaded
from infra.gateway.endpoint import Endpoint, TooSlow
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.openapi import PathItem
from infra.gateway.steering.destination import Asking
from infra.gateway.steering.router import key_of, said, wish_of
from infra.gateway.tracing import note
from infra.gateway.wire.bodies import TooLarge, Unpacking
from infra.gateway.wire.open_inference import (
    HEADER_LENGTH,
    InferenceAnswer,
    parse_request,
    render_answer,
)
from infra.gateway.wire.request_ids import KEY
from infra.gateway.wire.signature import TensorSignature
from infra.telemetry import CONTENT_TYPE

CONTEXT = ("tenant", "domain", "language", "label")
"""Parameters of a request, or headers X-Tenant and so on, that its traffic keeps."""
MOST_BYTES = 64 * 2**20
"""Of one request's body."""
BODY_S = 60.0
"""Seconds in which a body has to come."""
MOST_DIGITS = 12
"""Of a header that is a number of bytes."""
CLIENT_LEFT = 499
"""What metrics count where nobody waits for the answer any more."""
EXTENSIONS = ("binary_tensor_data",)
Handler = Callable[[Request, Endpoint], Awaitable[Response]]
Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


class SlowBody(BadInput):
    """A body that did not come in time."""


class Gateway:
    """Routes over the endpoints of some models."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        metrics: GatewayMetrics,
        version: str,
        *,
        most_bytes: int = MOST_BYTES,
        body_s: float = BODY_S,
    ) -> None:
        self._endpoints, self._metrics, self._version = endpoints, metrics, version
        self._most_bytes, self._body_s = most_bytes, body_s
        self._document = openapi.document(version, {})

    def application(
        self,
        lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
        routes: Sequence[BaseRoute] = (),
        paths: Mapping[str, PathItem] | None = None,
    ) -> Starlette:
        """Return the ASGI application, with further routes beside the protocol's.

        Args:
            lifespan: What lives as long as the application does.
            routes: Further routes.
            paths: What the OpenAPI document says of them.
        """
        self._document = openapi.document(self._version, paths or {})
        one, versioned = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        both = [
            Route(f"{path}{end}", self._at(handler), methods=[method])
            for path in (one, versioned)
            for end, method, handler in (
                ("", "GET", self._metadata),
                ("/ready", "GET", self._ready),
                ("/infer", "POST", self._infer),
            )
        ]
        own = [
            Route("/", self._server),
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._all_ready),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/metrics", self._exposition),
            Route("/openapi.json", self._described),
        ]
        return Starlette(
            routes=[*own, *both, *routes],
            lifespan=lifespan,
            exception_handlers={404: _no_page, 405: _no_page},
        )

    @property
    def models(self) -> Collection[str]:
        """Return the names of what is served and who asks may view."""
        return [name for name in self._endpoints if may_view(name)]

    @property
    def ready(self) -> bool:
        """Return whether each model has a release that answers."""
        return all(endpoint.release is not None for endpoint in self._endpoints.values())

    def answered(self, model: str, code: int, seconds: float) -> None:
        """Count an answer of a further route."""
        self._metrics.answered(model, code, seconds)

    def endpoint(self, model: str) -> Endpoint:
        """Return a model's endpoint; raises `NotFound`, and `NotAllowed` by who asks."""
        require_viewer(model)
        endpoint = self._endpoints.get(model)
        if endpoint is None:
            raise NotFound(
                f"no model is called {model!r} here: {', '.join(sorted(self.models)) or 'none'}"
            )
        return endpoint

    async def body(self, request: Request) -> bytes:
        """Read a body, plain or compressed by gzip or deflate.

        Raises:
            BadInput: It is larger than allowed, also once it is unpacked, not so compressed, or too
                slow.
        """
        note({"request": request.scope.get(KEY, "")})
        unpack = Unpacking(request.headers.get("content-encoding", "identity"), self._most_bytes)
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._body_s):
                async for chunk in request.stream():
                    chunks.append(unpack.add(chunk))
        except TimeoutError:
            raise SlowBody(f"the body did not come within {self._body_s:g} s") from None
        chunks.append(unpack.finish())
        return b"".join(chunks)

    def _at(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Return a route's function: it finds the model, counts, and tells errors."""

        async def answer(request: Request) -> Response:
            began, model = time.perf_counter(), str(request.path_params["model"])
            try:
                response = await handler(request, self.endpoint(model))
            except Exception as error:  # the caller is told what it may know
                response = problem(error)
            if request.method == "POST":
                known = model if model in self._endpoints else "unknown"
                self._metrics.answered(known, response.status_code, time.perf_counter() - began)
            return response

        return answer

    async def _infer(self, request: Request, endpoint: Endpoint) -> Response:
        length = _header_length(request)
        asked = parse_request(await self.body(request), length)
        version = request.path_params.get("version")
        endpoint.current(version).signature.require_outputs(asked.outputs or ())
        inferring = endpoint.infer(
            asked.inputs,
            asking_of(asked.parameters, request.headers),
            id=asked.id or request.scope.get(KEY, ""),
            version=version,
        )
        answered = await while_waited_for(request, inferring)
        release, destination = answered.release, answered.destination
        told = {"release": release.digest, "tier": destination.tier, "routed": destination.why}
        answer = InferenceAnswer(asked.id, release.model, release.version, told, answered.outputs)
        body, length = render_answer(answer, asked)
        if length is None:
            return Response(body, media_type="application/json")
        headers = {HEADER_LENGTH: str(length)}
        return Response(body, headers=headers, media_type="application/octet-stream")

    async def _metadata(self, request: Request, endpoint: Endpoint) -> Response:
        release = endpoint.current(request.path_params.get("version"))
        return _json(
            {
                "name": release.model,
                "versions": [release.version],
                "platform": release.target,
                "inputs": [_described(tensor) for tensor in release.signature.inputs],
                "outputs": [_described(tensor) for tensor in release.signature.outputs],
                "parameters": {"release": release.digest},
            }
        )

    async def _ready(self, request: Request, endpoint: Endpoint) -> Response:
        endpoint.current(request.path_params.get("version"))
        return Response(status_code=200)

    async def _server(self, request: Request) -> Response:
        return _json({"name": "requant", "version": self._version, "extensions": list(EXTENSIONS)})

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _all_ready(self, request: Request) -> Response:
        """Ready when each model has a release that answers."""
        return _json({"ready": self.ready}, 200 if self.ready else 503)

    async def _index(self, request: Request) -> Response:
        """Answer Triton's repository extension: what is ready, and why others are not."""
        seen = (endpoint for name, endpoint in self._endpoints.items() if may_view(name))
        return _json([_indexed(endpoint) for endpoint in seen])

    async def _described(self, request: Request) -> Response:
        return _json(self._document)

    async def _exposition(self, request: Request) -> Response:
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)


def problem(error: Exception) -> Response:
    """Return an error as a problem document, which is also what the protocol wants."""
    status, headers = 500, {}
    if isinstance(error, Overloaded):
        status, headers = 429, {"Retry-After": str(error.retry_after_s)}
    elif isinstance(error, TooLarge):
        status = 413
    elif isinstance(error, SlowBody):
        status, headers = 408, {"Connection": "close"}
    elif isinstance(error, BadInput):
        status = 400
    elif isinstance(error, NotFound):
        status = 404
    elif isinstance(error, NotAllowed):
        status = 403
    elif isinstance(error, TooSlow):
        status = 504
    elif isinstance(error, RequantError):
        status = 503
    elif isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_LEFT)
    else:
        _log.error("a request failed", exc_info=error)
    said = str(error) if isinstance(error, RequantError) else "the server failed: see its log"
    return problems.problem(status, said, headers, {"error": said})


async def while_waited_for(request: Request, answer: Coroutine[Any, Any, Answer]) -> Answer:
    """Return an answer; where whoever waits for it leaves, the work is given up.

    The request's body was read before.

    Raises:
        ClientDisconnect: They left.
    """
    working, leaving = asyncio.create_task(answer), asyncio.create_task(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def context_of(parameters: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, str]:
    """Return what a caller said of a request beside its input; raises `BadInput` as `said`."""
    return {name: value for name in CONTEXT if (value := said(name, parameters, headers))}


def asking_of(parameters: Mapping[str, Any], headers: Mapping[str, str]) -> Asking:
    """Return what a caller said of a request, and the tier that it wishes for.

    Raises:
        BadInput: There is no such tier, or what is said is no short text.
    """
    wish, key = wish_of(parameters, headers), key_of(parameters, headers)
    return Asking(context_of(parameters, headers), wish, key)


def _header_length(request: Request) -> int | None:
    given = request.headers.get(HEADER_LENGTH)
    if given is None:
        return None
    if not given.isascii() or not given.isdecimal() or len(given) > MOST_DIGITS:
        raise BadInput(
            f"the header {HEADER_LENGTH} is {given[: 2 * MOST_DIGITS]!r}: it is a number of bytes"
        )
    return int(given)


def _described(tensor: TensorSignature) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _indexed(endpoint: Endpoint) -> dict[str, str]:
    release = endpoint.release
    state = {"name": endpoint.model, "state": "READY" if release else "UNAVAILABLE"}
    if release is not None:
        state["version"] = release.version
    return {**state, "reason": endpoint.reason}


def _json(
    document: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(document), status, headers=headers, media_type="application/json")


async def _no_page(request: Request, error: Exception) -> Response:
    status, headers = getattr(error, "status_code", 404), getattr(error, "headers", None)
    said = f"there is no {request.method} {request.url.path} here"
    return problems.problem(status, said, headers, {"error": said})
