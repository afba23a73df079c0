"""OpenAI's interface to models that write down what they hear: `/v1/audio/transcriptions`.

A recording is written down at once: longer ones than the model hears are refused, not cut.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message

from flows.gateway.fronts import SpeechFront
from flows.gateway.openai_api.routes import answering, json_response
from infra.errors import BadInput
from infra.gateway.application import Gateway, asking_of
from infra.gateway.endpoint import TooSlow
from tasks.preprocess.decoding import decode_audio

FORMATS = ("json", "text")


def transcription_routes(gateway: Gateway) -> list[Route]:
    """Return the route over a gateway's models."""
    working = asyncio.Semaphore(1)  # each fills the cores

    async def transcribe(request: Request) -> Response:
        return await answering(
            gateway, request, lambda body: _transcribe(gateway, request, body, working)
        )

    return [Route("/v1/audio/transcriptions", transcribe, methods=["POST"])]


async def _transcribe(
    gateway: Gateway, request: Request, body: bytes, working: asyncio.Semaphore
) -> tuple[str, Response]:
    fields = await _form(request, body)
    model, form = str(fields.get("model") or ""), str(fields.get("response_format") or "json")
    if not model:
        raise BadInput("model: Field required")
    if form not in FORMATS:
        raise BadInput(f"response_format is {form!r}: {' or '.join(FORMATS)} can be had here")
    endpoint = gateway.endpoint(model)
    asking = asking_of({}, request.headers)
    champion = endpoint.current()
    front = _speech(champion.front, model)
    data = fields.get("file")
    if not isinstance(data, bytes):
        raise BadInput("file: a WAV file is required")
    wave = front.heard(*decode_audio(data))
    destination = endpoint.steering.destination(champion, asking, len(wave))
    began = time.perf_counter()
    try:
        async with asyncio.timeout(endpoint.timeout_s), working:
            writer = _speech(destination.release.front, model)
            text = await asyncio.to_thread(writer.transcript, wave)
    except TimeoutError:
        endpoint.steering.missed(destination)
        raise TooSlow(f"{model} did not answer within {endpoint.timeout_s:g} s") from None
    took = time.perf_counter() - began
    endpoint.steering.saw(destination, took)
    endpoint.metrics.steered(model, destination.tier, destination.why, took)
    endpoint.sample(destination.release, [wave], asking.context, "", took * 1e3)
    if form == "text":
        return model, PlainTextResponse(text)
    return model, json_response({"text": text})


def _speech(front: Any, model: str) -> SpeechFront:
    if not isinstance(front, SpeechFront):
        raise BadInput(f"{model} hears nothing: ask it at /v2/models/{model}/infer")
    return front


async def _form(request: Request, body: bytes) -> dict[str, str | bytes]:
    """Return the fields of a form, which was read within the gateway's bound."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        form = await Request(request.scope, receive).form(max_files=1, max_part_size=len(body) + 1)
    except (HTTPException, AssertionError, ValueError, KeyError) as error:
        told = getattr(error, "detail", "it is no multipart form")
        raise BadInput(f"the body cannot be read: {told}") from None
    fields: dict[str, str | bytes] = {}
    for name, value in form.multi_items():
        fields[name] = await value.read() if isinstance(value, UploadFile) else value
    return fields
