"""The gRPC server of a gateway, on its event loop.

A call shows the workspace's key, or a user's token, as `authorization: Bearer KEY` in its metadata,
whatever it asks.
Errors have gRPC's own codes, one sentence each, and never tell of the inside.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from infra.access.directory import CURRENT, Directory
from infra.access.sign_in import TokenDoor
from infra.errors import BadInput, NotAllowed, NotFound, RequantError
from infra.gateway.application import EXTENSIONS, MOST_BYTES, Gateway, asking_of
from infra.gateway.batching import Overloaded
from infra.gateway.endpoint import TooSlow
from infra.gateway.over_grpc.messages import SERVICE, message
from infra.gateway.over_grpc.tensors import parameters_of, response_of, tensors_of
from infra.gateway.wire.signature import TensorSignature

Answer = Callable[[Any, Mapping[str, str]], Awaitable[Any]]
_HTTP = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""The status that metrics count a code as; any other is 500."""
_log = logging.getLogger(__name__)


class GrpcServer:
    """The protocol's calls over one gateway's endpoints."""

    def __init__(
        self, gateway: Gateway, key: str, version: str, *, directory: Directory | None = None
    ) -> None:
        self._gateway, self._key, self._version = gateway, key, version
        self._directory = directory
        self._door = None if directory is None else TokenDoor(directory)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MOST_BYTES),
                ("grpc.max_send_message_length", -1),
            ]
        )
        calls: Mapping[str, Answer] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {name: self._handler(name, answer) for name, answer in calls.items()}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )

    async def start(self, port: int) -> int:
        """Listen on 127.0.0.1, and return the port; 0 takes a free one.

        Raises:
            BadInput: The port is taken.
        """
        try:
            bound = self._server.add_insecure_port(f"127.0.0.1:{port}")
        except RuntimeError as error:
            raise BadInput(
                f"port {port} is taken: set REQUANT_GATEWAY_GRPC_PORT to a free one"
            ) from error
        await self._server.start()
        return int(bound)

    async def stop(self) -> None:
        """Take no more calls, and let those that run end."""
        await self._server.stop(grace=5.0)

    def _handler(self, name: str, answer: Answer) -> Any:
        """Return a call's handler; it reads the message itself, so that a bad one is told so."""
        kind = message(f"{name}Request")

        async def handle(data: bytes, context: Any) -> bytes:
            began, model = time.perf_counter(), "unknown"
            code, told = grpc.StatusCode.OK, ""
            trailing: tuple[tuple[str, str], ...] = ()
            try:
                headers = {key: str(value) for key, value in context.invocation_metadata() or ()}
                await self._admit(headers, str(context.peer()))
                request = _parsed(kind, data)
                model = getattr(request, "model_name", model)
                response = await answer(request, headers)
            except _NoKey:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "show a valid key or token")
            except Exception as error:  # the caller is told what it may know
                code, told, trailing = _status(error)
            if name == "ModelInfer":
                known = model if model in self._gateway.models else "unknown"
                took = time.perf_counter() - began
                self._gateway.answered(known, _HTTP.get(code, 500), took)
            if code is not grpc.StatusCode.OK:
                await context.abort(code, told, trailing)
            return bytes(response.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(handle)

    async def _admit(self, headers: Mapping[str, str], peer: str) -> None:
        """Note who asks, for `Gateway.endpoint`; raises `_NoKey` where nothing shows it."""
        shown = headers.get("authorization", "")
        if hmac.compare_digest(shown.encode(), f"Bearer {self._key}".encode()):
            CURRENT.set(None)
            return
        token = shown.removeprefix("Bearer ")
        if self._directory is None or self._door is None or token == shown:
            raise _NoKey
        if not (await asyncio.to_thread(self._directory.accounts)).in_use:
            raise _NoKey
        user = await self._door.user_of(token, peer.rpartition(":")[0])
        if not isinstance(user, tuple):
            raise _NoKey
        CURRENT.set(self._directory.caller(user[0]))

    async def _infer(self, request: Any, headers: Mapping[str, str]) -> Any:
        endpoint = self._gateway.endpoint(request.model_name)
        answered = await endpoint.infer(
            tensors_of(request),
            asking_of(parameters_of(request.parameters), headers),
            id=request.id,
            version=request.model_version or None,
        )
        return response_of(answered, request.id, [output.name for output in request.outputs])

    async def _live(self, request: Any, headers: Mapping[str, str]) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, request: Any, headers: Mapping[str, str]) -> Any:
        return message("ServerReadyResponse")(ready=self._gateway.ready)

    async def _model_ready(self, request: Any, headers: Mapping[str, str]) -> Any:
        endpoint = self._gateway.endpoint(request.name)
        endpoint.current(request.version or None)
        return message("ModelReadyResponse")(ready=True)

    async def _server_metadata(self, request: Any, headers: Mapping[str, str]) -> Any:
        made = message("ServerMetadataResponse")
        return made(name="requant", version=self._version, extensions=EXTENSIONS)

    async def _model_metadata(self, request: Any, headers: Mapping[str, str]) -> Any:
        release = self._gateway.endpoint(request.name).current(request.version or None)
        response = message("ModelMetadataResponse")(
            name=release.model, versions=[release.version], platform=release.target
        )
        for tensor in release.signature.inputs:
            _describe(response.inputs.add(), tensor)
        for tensor in release.signature.outputs:
            _describe(response.outputs.add(), tensor)
        return response


class _NoKey(Exception):
    """The call shows no key, or another one."""


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise BadInput("the bytes are no message of the Open Inference Protocol") from None


def _status(error: Exception) -> tuple[Any, str, tuple[tuple[str, str], ...]]:
    """Return an error's code, its sentence, and what goes along with it."""
    told = str(error) if isinstance(error, RequantError) else "the server failed: see its log"
    if isinstance(error, Overloaded):
        return (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            told,
            (("retry-after", str(error.retry_after_s)),),
        )
    if isinstance(error, BadInput):
        return grpc.StatusCode.INVALID_ARGUMENT, told, ()
    if isinstance(error, NotFound):
        return grpc.StatusCode.NOT_FOUND, told, ()
    if isinstance(error, NotAllowed):
        return grpc.StatusCode.PERMISSION_DENIED, told, ()
    if isinstance(error, TooSlow):
        return grpc.StatusCode.DEADLINE_EXCEEDED, told, ()
    if isinstance(error, RequantError):
        return grpc.StatusCode.UNAVAILABLE, told, ()
    _log.error("a call failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, told, ()


def _describe(described: Any, tensor: TensorSignature) -> None:
    described.name, described.datatype = tensor.name, tensor.datatype
    described.shape.extend(tensor.shape)
