"""OpenAI's interface to models that read texts: `/v1/models` and `/v1/embeddings`.

Errors have OpenAI's shape, `{"error": {"message": ..., "type": ...}}`.
"""

from __future__ import annotations

import base64
import time
from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows.gateway.fronts import TextFront
from infra.errors import BadInput
from infra.gateway.application import Gateway, context_of, problem


class EmbeddingsRequest(BaseModel):
    """What the OpenAI client sends; fields that mean nothing here are let pass."""

    model_config = ConfigDict(extra="ignore")

    model: str
    input: str | list[str] = Field(min_length=1)
    encoding_format: str = Field(default="float", pattern="^(float|base64)$")
    user: str | None = None


def embedding_routes(gateway: Gateway) -> list[Route]:
    """Return the routes over a gateway's models."""

    async def models(request: Request) -> Response:
        return _json({"object": "list", "data": [_named(name) for name in sorted(gateway.models)]})

    async def embeddings(request: Request) -> Response:
        began, model, response = time.perf_counter(), "unknown", None
        try:
            asked = _read(await gateway.body(request))
            model = gateway.endpoint(asked.model).model
            response = await _embed(gateway, asked, request)
        except Exception as error:  # the caller is told what it may know
            response = _problem(error)
        gateway.answered(model, response.status_code, time.perf_counter() - began)
        return response

    return [
        Route("/v1/models", models),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
    ]


async def _embed(gateway: Gateway, asked: EmbeddingsRequest, request: Request) -> Response:
    endpoint = gateway.endpoint(asked.model)
    release = endpoint.current()
    if not isinstance(release.front, TextFront):
        raise BadInput(f"{asked.model} reads no texts: ask it at /v2/models/{asked.model}/infer")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    context = context_of({"tenant": asked.user}, request.headers)
    tensors = {"text": np.asarray(texts, dtype=object)}
    release, outputs = await endpoint.infer(tensors, context)
    rows = next(iter(outputs.values()))
    if rows.ndim != 2:
        raise BadInput(f"{asked.model} returns no embedding: it answers with {list(rows.shape)}")
    return _json(
        {
            "object": "list",
            "model": asked.model,
            "data": [
                {
                    "object": "embedding",
                    "index": place,
                    "embedding": _encoded(row, asked.encoding_format),
                }
                for place, row in enumerate(rows)
            ],
            "usage": {"prompt_tokens": 0, "total_tokens": 0},
            "release": {"version": release.version, "digest": release.digest},
        }
    )


def _read(body: bytes) -> EmbeddingsRequest:
    try:
        return EmbeddingsRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise BadInput(f"{where}: {first['msg']}") from None


def _encoded(row: np.ndarray[Any, np.dtype[np.float32]], form: str) -> object:
    if form == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return row


def _named(model: str) -> dict[str, object]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "requant"}


def _problem(error: Exception) -> Response:
    """Return an error in OpenAI's shape, with the status that the gateway gives it."""
    answered = problem(error)
    said = orjson.loads(answered.body)["error"]
    kind = "invalid_request_error" if answered.status_code < 500 else "server_error"
    headers = {name: value for name, value in answered.headers.items() if name == "retry-after"}
    return _json({"error": {"message": said, "type": kind}}, answered.status_code, headers)


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY),
        status,
        headers=headers,
        media_type="application/json",
    )
