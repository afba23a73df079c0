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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from infra.access.directory import CURRENT, Directory
from infra.access.roles import ANY, Role
from infra.access.sign_in import LOCKED, TokenDoor
from infra.errors import BadInput, NotAllowed, NotFound, RequantError
from infra.gateway.application import (
    BODY_S,
    CLIENT_LEFT,
    EXTENSIONS,
    MOST_BYTES,
    Gateway,
    SlowBody,
    asking_of,
)
from infra.gateway.batching import Overloaded
from infra.gateway.endpoint import TooSlow
from infra.gateway.over_grpc.messages import SERVICE, message
from infra.gateway.over_grpc.tensors import parameters_of, response_of, tensors_of, wanted_of
from infra.gateway.tracing import calling
from infra.gateway.wire.extensions import require_known
from infra.gateway.wire.request_ids import HEADER, fit_id, id_of
from infra.gateway.wire.signature import TensorSignature

Answer = Callable[[Any, Mapping[str, str], str], Awaitable[Any]]
Trailing = tuple[tuple[str, str], ...]
AGE_S, GRACE_S = 600, 60
"""Seconds after which a connection is to be opened anew, and that its calls are given then: no
answer takes longer."""
MOST_CALLS = 512
"""Of one connection at once; its client holds back what is more."""
REQUEST_ID = HEADER.lower()
_log = logging.getLogger(__name__)


class GrpcServer:
    """The protocol's calls over one gateway's endpoints."""

    def __init__(
        self,
        gateway: Gateway,
        key: str,
        version: str,
        *,
        directory: Directory | None = None,
        head_s: float = 10.0,
        body_s: float = BODY_S,
        idle_s: float = 300.0,
    ) -> None:
        """Speak for a gateway, and listen to nobody yet.

        Args:
            gateway: Whose endpoints answer.
            key: The workspace's.
            version: Of the program.
            directory: Who the users are; None: the key alone opens.
            head_s: Seconds in which a new connection has to begin to speak HTTP/2.
            body_s: Seconds in which a call's message has to come.
            idle_s: Seconds for which a connection without calls is kept.
        """
        self._gateway, self._key, self._version = gateway, key, version
        self._directory = directory
        self._door = None if directory is None else TokenDoor(directory)
        self._body_s = body_s
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MOST_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", MOST_CALLS),
                ("grpc.server_handshake_timeout_ms", int(head_s * 1e3)),
                ("grpc.max_connection_idle_ms", int(idle_s * 1e3)),
                ("grpc.max_connection_age_ms", AGE_S * 1000),
                ("grpc.max_connection_age_grace_ms", GRACE_S * 1000),
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
        """Return a call's handler.

        It takes the message from a stream of one, and reads it itself: so its time is bounded, and
        none, two or a bad one are told of.
        """
        kind = message(f"{name}Request")
        counted = name == "ModelInfer"

        async def handle(messages: AsyncIterator[bytes], context: Any) -> bytes:
            began, model = time.perf_counter(), "unknown"
            headers = {key: str(value) for key, value in context.invocation_metadata() or ()}
            request_id = fit_id(headers.get(REQUEST_ID, ""))
            context.set_trailing_metadata(((REQUEST_ID, request_id),))
            refusal, status = None, CLIENT_LEFT
            try:
                await self._admit(headers, str(context.peer()), name)
                request = _parsed(kind, await _only(messages, self._body_s))
                model = getattr(request, "model_name", model)
                with calling(name, headers, {"request": request_id}):
                    response = await answer(request, headers, request_id)
                status = 200
            except Exception as error:  # the caller is told what it may know
                refusal = _refusal(error)
                status = refusal.status
            finally:  # also where the caller has left
                if counted and status not in _BEFORE:
                    known = model if model in self._gateway.models else "unknown"
                    self._gateway.answered(known, status, time.perf_counter() - began)
            if refusal is not None:
                trailing = ((REQUEST_ID, request_id), *refusal.trailing)
                await context.abort(refusal.code, refusal.sentence, trailing)
            return bytes(response.SerializeToString())

        return grpc.stream_unary_rpc_method_handler(handle)

    async def _admit(self, headers: Mapping[str, str], peer: str, call: str) -> None:
        """Note who asks, for `Gateway.endpoint`.

        Raises:
            _NoKey: Nothing shows it.
            _Locked: Too many wrong tokens came from there.
            NotAllowed: They may ask no model.
        """
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
        if isinstance(user, int):
            raise _Locked(user)
        if user is None:
            raise _NoKey
        caller = self._directory.caller(user[0])
        if not caller.may(Role.VIEWER, ANY):
            act = f"call {call} of the gateway"
            await asyncio.to_thread(self._directory.refuse, user[0], Role.VIEWER, ANY, act)
        CURRENT.set(caller)

    async def _infer(self, request: Any, headers: Mapping[str, str], request_id: str) -> Any:
        endpoint, version = self._gateway.endpoint(request.model_name), request.model_version
        tensors, wanted = tensors_of(request), wanted_of(request)
        require_known("request", request.parameters)
        endpoint.current(version or None).signature.require_outputs(wanted)
        answered = await endpoint.infer(
            tensors,
            asking_of(parameters_of(request.parameters), headers),
            id=id_of(request.id) or request_id,
            version=version or None,
        )
        return response_of(answered, request.id, wanted)

    async def _live(self, request: Any, headers: Mapping[str, str], request_id: str) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, request: Any, headers: Mapping[str, str], request_id: str) -> Any:
        return message("ServerReadyResponse")(ready=self._gateway.ready)

    async def _model_ready(self, request: Any, headers: Mapping[str, str], request_id: str) -> Any:
        endpoint = self._gateway.endpoint(request.name)
        endpoint.current(request.version or None)
        return message("ModelReadyResponse")(ready=True)

    async def _server_metadata(
        self, request: Any, headers: Mapping[str, str], request_id: str
    ) -> Any:
        made = message("ServerMetadataResponse")
        return made(name="requant", version=self._version, extensions=EXTENSIONS)

    async def _model_metadata(
        self, request: Any, headers: Mapping[str, str], request_id: str
    ) -> Any:
        release = self._gateway.endpoint(request.name).current(request.version or None)
        response = message("ModelMetadataResponse")(
            name=release.model, versions=[release.version], platform=release.target
        )
        for tensor in release.signature.inputs:
            _describe(response.inputs.add(), tensor)
        for tensor in release.signature.outputs:
            _describe(response.outputs.add(), tensor)
        return response


class _NoKey(RequantError):
    """The call shows no key, or another one."""

    def __init__(self) -> None:
        super().__init__("show a valid key or token")


class _Locked(RequantError):
    """Too many wrong tokens were shown; `wait_s` is how long none is looked at."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(LOCKED.format(wait=wait_s))
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What an error is told by."""

    code: Any  # gRPC's
    status: int  # HTTP's, which metrics count
    sentence: str
    trailing: Trailing = ()


_CODES: tuple[tuple[type[Exception], Any, int], ...] = (
    (_NoKey, grpc.StatusCode.UNAUTHENTICATED, 401),
    (_Locked, grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    (SlowBody, grpc.StatusCode.DEADLINE_EXCEEDED, 408),
    (BadInput, grpc.StatusCode.INVALID_ARGUMENT, 400),
    (NotFound, grpc.StatusCode.NOT_FOUND, 404),
    (NotAllowed, grpc.StatusCode.PERMISSION_DENIED, 403),
    (TooSlow, grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    (RequantError, grpc.StatusCode.UNAVAILABLE, 503),
)
"""Error -> gRPC's code and HTTP's status; the first that fits."""
_BEFORE = (401,)
"""Of calls that were not let in, which HTTP's side does not count either."""


async def _only(messages: AsyncIterator[bytes], within_s: float) -> bytes:
    """Return the message of a call.

    Raises:
        BadInput: There is none, or a second one.
        SlowBody: It did not come in time.
    """
    received: list[bytes] = []
    try:
        async with asyncio.timeout(within_s):
            async for data in messages:
                received.append(data)
                if len(received) > 1:
                    break
    except TimeoutError:
        raise SlowBody(f"the message did not come within {within_s:g} s") from None
    if len(received) != 1:
        raise BadInput("the call has no message" if not received else "the call has two messages")
    return received[0]


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise BadInput("the bytes are no message of the Open Inference Protocol") from None


def _refusal(error: Exception) -> _Refusal:
    """Return how an error is told."""
    wait = {Overloaded: "retry_after_s", _Locked: "wait_s"}.get(type(error))
    trailing: Trailing = () if wait is None else (("retry-after", str(getattr(error, wait))),)
    for kind, code, status in _CODES:
        if isinstance(error, kind):
            return _Refusal(code, status, str(error), trailing)
    _log.error("a call failed", exc_info=error)
    return _Refusal(grpc.StatusCode.INTERNAL, 500, "the server failed: see its log")


def _describe(described: Any, tensor: TensorSignature) -> None:
    described.name, described.datatype = tensor.name, tensor.datatype
    described.shape.extend(tensor.shape)
