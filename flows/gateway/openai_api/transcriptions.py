"""OpenAI's interface to models that write down what they hear: `/v1/audio/transcriptions`.

A recording is written down at once: longer ones than the model hears are refused, not cut. With
`stream`, it is heard in chunks, and each chunk's words are sent as soon as they are written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from flows.gateway.fronts import SpeechFront
from flows.gateway.openai_api.fields import require_known
from flows.gateway.openai_api.one_at_a_time import OneAtATime
from flows.gateway.openai_api.routes import answering, json_response, problem_of
from infra.errors import BadInput
from infra.gateway.application import Gateway, asking_of, while_waited_for
from infra.gateway.batching import Overloaded
from infra.gateway.endpoint import Endpoint, TooSlow
from infra.gateway.steering.destination import Destination
from infra.gateway.wire.request_ids import KEY
from tasks.preprocess.decoding import decode_audio

FORMATS = ("json", "text")
FIELDS = frozenset({"chunk_s", "file", "model", "response_format", "stream"})


def transcription_routes(gateway: Gateway) -> list[Route]:
    """Return the route over a gateway's models."""
    working = OneAtATime()

    async def transcribe(request: Request) -> Response:
        return await answering(
            gateway, request, lambda body: _transcribe(gateway, request, body, working)
        )

    return [Route("/v1/audio/transcriptions", transcribe, methods=["POST"])]


async def _transcribe(
    gateway: Gateway, request: Request, body: bytes, working: OneAtATime
) -> tuple[str, Response]:
    fields = await _form(request, body)
    asked = _asked(fields)
    model, request_id = asked.model, request.scope.get(KEY, "")
    endpoint = gateway.endpoint(model)
    asking = asking_of({}, request.headers)
    champion = endpoint.current()
    front = _speech(champion.front, model)
    data = fields.get("file")
    if not isinstance(data, bytes):
        raise BadInput("file: a WAV file is required")
    wave = await asyncio.to_thread(_heard, front, data, whole=not asked.stream)
    destination = endpoint.steering.destination(champion, asking, len(wave))
    working.require_room(model)
    if asked.stream:
        chunks = _speech(destination.release.front, model).chunks(wave, asked.chunk_s)
        dictation = _Dictation(endpoint, destination, chunks, asking.context, request_id, working)
        return model, StreamingResponse(dictation.events(), media_type="text/event-stream")
    dictation = _Dictation(endpoint, destination, [wave], asking.context, request_id, working)
    text = await while_waited_for(request, dictation.whole())
    if asked.form == "text":
        return model, PlainTextResponse(text)
    return model, json_response({"text": text})


def _heard(front: SpeechFront, data: bytes, *, whole: bool) -> NDArray[np.float32]:
    """Decode and resample a recording, which takes a core for a while."""
    return front.heard(*decode_audio(data), whole=whole)


@dataclass(slots=True)
class _Dictation:
    """One recording that is written down, chunk by chunk or at once."""

    endpoint: Endpoint
    destination: Destination
    chunks: Sequence[NDArray[np.float32]]
    context: Mapping[str, str]
    request_id: str
    working: OneAtATime
    began: float = field(default_factory=time.perf_counter)

    async def events(self) -> AsyncIterator[bytes]:
        """Yield OpenAI's events of a transcription: each chunk's words, then the whole text."""
        said = list[str]()
        try:
            for chunk in self.chunks:
                words = await self._written(chunk)
                if words:
                    delta = f" {words}" if said else words
                    said.append(words)
                    yield _event({"type": "transcript.text.delta", "delta": delta})
        except Exception as error:  # the status was sent: the stream tells it
            yield b"data: " + bytes(problem_of(error).body) + b"\n\n"
            return
        yield _event({"type": "transcript.text.done", "text": " ".join(said)})
        self._answered()

    async def whole(self) -> str:
        """Return the words of the only chunk; raises as `_written`."""
        (chunk,) = self.chunks
        words = await self._written(chunk)
        self._answered()
        return words

    def _answered(self) -> None:
        """Count and sample the recording."""
        endpoint, release = self.endpoint, self.destination.release
        took = time.perf_counter() - self.began
        endpoint.metrics.steered(endpoint.model, self.destination.tier, self.destination.why, took)
        endpoint.sample(release, list(self.chunks), self.context, self.request_id, took * 1e3)

    async def _written(self, chunk: NDArray[np.float32]) -> str:
        """Return a chunk's words; the time of each is an answer's, and a failure is noted.

        Raises:
            TooSlow: It took longer than an answer is given.
            Overloaded: Too many wait.
        """
        endpoint, began = self.endpoint, time.perf_counter()
        writer = _speech(self.destination.release.front, endpoint.model)
        try:
            async with asyncio.timeout(endpoint.timeout_s):
                words = await self.working.run(endpoint.model, partial(writer.transcript, chunk))
        except (BadInput, Overloaded):
            raise
        except Exception as error:
            endpoint.steering.missed(self.destination)
            if not isinstance(error, TimeoutError):
                raise
            raise TooSlow(
                f"{endpoint.model} did not answer within {endpoint.timeout_s:g} s: send it again, "
                "or a shorter recording"
            ) from None
        endpoint.steering.saw(self.destination, time.perf_counter() - began)
        return words


@dataclass(frozen=True, slots=True)
class _AskedTranscript:
    model: str
    form: str
    stream: bool
    chunk_s: float | None


def _asked(fields: Mapping[str, str | bytes]) -> _AskedTranscript:
    model, form = str(fields.get("model") or ""), str(fields.get("response_format") or "json")
    stream, chunk = str(fields.get("stream") or "false").lower(), fields.get("chunk_s")
    if not model:
        raise BadInput("model: Field required")
    if str(fields.get("temperature", 0)) not in ("0", "0.0"):
        raise BadInput("temperature cannot be had here: the likeliest words are written")
    require_known({name: fields[name] for name in fields.keys() - FIELDS - {"temperature"}})
    if form not in FORMATS:
        raise BadInput(f"response_format is {form!r}: {' or '.join(FORMATS)} can be had here")
    if stream not in ("true", "false"):
        raise BadInput(f"stream is {stream!r}: true or false")
    if chunk is None:
        return _AskedTranscript(model, form, stream == "true", None)
    if stream == "false":
        raise BadInput("chunk_s wants stream: a recording is heard in chunks then")
    try:
        return _AskedTranscript(model, form, True, float(chunk))
    except ValueError:
        raise BadInput("chunk_s is no number of seconds") from None


def _event(document: Mapping[str, str]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


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
