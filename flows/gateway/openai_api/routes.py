"""What OpenAI's routes share: bodies read by their schema, answers counted, errors in its shape.

Errors are `{"error": {"message": ..., "type": ...}}`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import Response

from infra.errors import BadInput
from infra.gateway.application import CLIENT_LEFT, Gateway, problem
from infra.gateway.wire.bodies import require_flat

Asked = TypeVar("Asked", bound=BaseModel)
MOST_ITEMS = 4096
"""Of a list in a body, such as the turns of a conversation."""


class OpenAIBody(BaseModel):
    """A body, or a part of one, in which null is the same as nothing, as it is at OpenAI's."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, document: object) -> object:
        if not isinstance(document, dict):
            return document
        return {name: value for name, value in document.items() if value is not None}


async def answering(
    gateway: Gateway,
    request: Request,
    answer: Callable[[bytes], Awaitable[tuple[str, Response]]],
) -> Response:
    """Read a body, answer it with (model, response), and count that; errors are told."""
    began, model = time.perf_counter(), "unknown"
    try:
        model, response = await answer(await gateway.body(request))
    except Exception as error:  # the caller is told what it may know
        response = problem_of(error)
    gateway.answered(model, response.status_code, time.perf_counter() - began)
    return response


def read_body(kind: type[Asked], body: bytes) -> Asked:
    """Read a body; raises `BadInput` with the field and what is wrong with it."""
    require_flat(body)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise BadInput(f"{where}: {first['msg']}") from None


def problem_of(error: Exception) -> Response:
    """Return an error in OpenAI's shape, with the status that the gateway gives it."""
    told = problem(error)
    if told.status_code == CLIENT_LEFT:
        return told
    message = orjson.loads(told.body)["error"]
    kind = "invalid_request_error" if told.status_code < 500 else "server_error"
    kept = ("retry-after", "connection")
    headers = {name: value for name, value in told.headers.items() if name in kept}
    document = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return json_response(document, told.status_code, headers)


def json_response(
    document: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return a JSON document; arrays of NumPy go as lists."""
    return Response(
        orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY),
        status,
        headers=headers,
        media_type="application/json",
    )
