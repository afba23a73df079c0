"""OpenAI's interface to models that read texts: `/v1/models` and `/v1/embeddings`."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows.gateway.fronts import LanguageFront, TextFront
from flows.gateway.openai_api.fields import require_known
from flows.gateway.openai_api.routes import (
    MOST_ITEMS,
    OpenAIBody,
    answering,
    json_response,
    read_body,
)
from infra.errors import BadInput
from infra.gateway.application import Gateway, asking_of, while_waited_for
from infra.gateway.wire.request_ids import KEY


class EmbeddingsRequest(OpenAIBody):
    """What the OpenAI client sends."""

    model_config = ConfigDict(extra="allow")

    model: str
    input: str | Annotated[list[str], Field(max_length=MOST_ITEMS, fail_fast=True)] = Field(
        min_length=1
    )
    encoding_format: str = Field(default="float", pattern="^(float|base64)$")
    user: str | None = None


def embedding_routes(gateway: Gateway) -> list[Route]:
    """Return the routes over a gateway's models."""

    async def models(request: Request) -> Response:
        named = [
            {"id": model, "object": "model", "created": 0, "owned_by": "requant"}
            for model in sorted(gateway.models)
        ]
        return json_response({"object": "list", "data": named})

    async def embeddings(request: Request) -> Response:
        return await answering(gateway, request, lambda body: _embed(gateway, request, body))

    return [
        Route("/v1/models", models),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
    ]


async def _embed(gateway: Gateway, request: Request, body: bytes) -> tuple[str, Response]:
    asked = read_body(EmbeddingsRequest, body)
    require_known(asked.model_extra)
    endpoint = gateway.endpoint(asked.model)
    front = endpoint.current().front
    if not isinstance(front, TextFront) or isinstance(front, LanguageFront):
        raise BadInput(f"{asked.model} embeds no texts: ask it at /v2/models/{asked.model}/infer")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    asking = asking_of({"tenant": asked.user}, request.headers)
    tensors = {"text": np.asarray(texts, dtype=object)}
    inferring = endpoint.infer(tensors, asking, id=request.scope.get(KEY, ""))
    answered = await while_waited_for(request, inferring)
    release, destination = answered.release, answered.destination
    rows, tokens = next(iter(answered.outputs.values())), front.count(texts)
    document = {
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
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "release": {
            "version": release.version,
            "digest": release.digest,
            "tier": destination.tier,
            "routed": destination.why,
        },
    }
    return asked.model, json_response(document)


def _encoded(row: np.ndarray[Any, np.dtype[np.float32]], form: str) -> object:
    if form == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return row
