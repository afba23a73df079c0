"""OpenAI's interface to language models: `/v1/completions`, `/v1/chat/completions`, streamed too.

What a client may send and cannot get here (tools, log-probabilities, several choices) is refused in
a sentence, never left out silently.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from flows.gateway.fronts import LanguageFront
from flows.gateway.guards import On
from flows.gateway.openai_api.fields import require_known
from flows.gateway.openai_api.pieces import TextPieces
from flows.gateway.openai_api.routes import (
    MOST_ITEMS,
    OpenAIBody,
    answering,
    json_response,
    problem_of,
    read_body,
)
from infra.errors import BadInput
from infra.gateway.application import Gateway, asking_of, while_waited_for
from infra.gateway.batching import Overloaded
from infra.gateway.endpoint import Endpoint, TooSlow
from infra.gateway.release import ServedRelease
from infra.gateway.steering.destination import Destination
from infra.gateway.wire.request_ids import KEY
from tasks.models.decoding.generation import Sampling
from tasks.transcripts import Turn, write_transcript

MOST_STOPS = 16
"""Texts that end an answer: each is looked for at each token."""


class ContentPart(BaseModel):
    """One part of a message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(OpenAIBody):
    """One turn."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], Field(max_length=MOST_ITEMS, fail_fast=True)]

    @property
    def turn(self) -> Turn:
        """Return it as transcripts have it."""
        texts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        return Turn("system" if self.role == "developer" else self.role, "".join(texts))


class StreamOptions(OpenAIBody):
    """What a stream ends with."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class _Asked(OpenAIBody):
    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS, fail_fast=True)] | None = None
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str | None = None

    def require_known(self) -> None:
        """Raise `BadInput` for what would be left out."""
        require_known(self.model_extra)
        if not self.stream and "stream_options" in self.model_fields_set:
            raise BadInput("stream_options want stream: leave them out")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise BadInput("max_tokens and max_completion_tokens are the same: give one of them")

    @property
    def sampling(self) -> Sampling:
        """Return how tokens are chosen; without a seed, otherwise each time."""
        seed = uuid.uuid4().int % 2**32 if self.seed is None else self.seed
        return Sampling(self.temperature, self.top_p, seed)

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the texts that end an answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    @property
    def most(self) -> int | None:
        """Return how many tokens may be written at most."""
        return self.max_completion_tokens or self.max_tokens


class ChatRequest(_Asked):
    """A conversation that waits for its reply."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)

    def require_known(self) -> None:
        """Raise `BadInput` for what would be left out, also of a message."""
        super().require_known()
        for place, message in enumerate(self.messages):
            require_known(message.model_extra, f"messages.{place}.")

    @property
    def text(self) -> str:
        """Return the conversation as a transcript whose reply is to come."""
        return write_transcript([*(each.turn for each in self.messages), Turn("assistant", "")])

    def answered(self, reply: str) -> str:
        """Return the conversation with its reply, as traffic keeps it."""
        return write_transcript([*(each.turn for each in self.messages), Turn("assistant", reply)])


class CompletionRequest(_Asked):
    """A text to be continued."""

    prompt: str

    @property
    def text(self) -> str:
        """Return the prompt."""
        return self.prompt

    def answered(self, reply: str) -> str:
        """Return the prompt and what was written, as traffic keeps it."""
        return self.prompt + reply


@dataclass(slots=True)
class _Answer:
    """One answer, while it is written."""

    asked: ChatRequest | CompletionRequest
    endpoint: Endpoint
    destination: Destination
    prompt: list[int]
    context: Mapping[str, str]
    request_id: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.perf_counter)
    created: int = field(default_factory=lambda: int(time.time()))
    tokens: int = 0
    reason: str = "length"

    @property
    def release(self) -> ServedRelease:
        """Return what answers."""
        return self.destination.release

    async def pieces(self) -> AsyncIterator[str]:
        """Yield the text as it is written, and sample the request once it is.

        What a guard blocks is answered in the guard's words. With guards of answers, a text is
        given out whole, once they let it pass.
        """
        front = _front(self.release)
        refusal = await self._refusal(front, "input", self.asked.text)
        if refusal is not None:
            yield refusal
            return
        pieces = self._written(front)
        if not front.guards.of("output"):
            async for piece in pieces:
                yield piece
            return
        text = "".join([piece async for piece in pieces])
        yield await self._refusal(front, "output", text) or text

    async def _refusal(self, front: LanguageFront, on: On, text: str) -> str | None:
        """Return a guard's answer; None where the text passes."""
        if not front.guards.of(on):
            return None
        guard = await asyncio.to_thread(front.guards.stopping, on, text)
        model, tier = self.endpoint.model, self.destination.tier
        self.endpoint.metrics.guarded(model, on, tier, guard.name if guard else "")
        if guard is None:
            return None
        self.reason = "content_filter"
        return guard.answer

    async def _written(self, front: LanguageFront) -> AsyncIterator[str]:
        most = min(self.asked.most or front.new_tokens, front.room(len(self.prompt)))
        pieces = TextPieces(front.inputs, self.asked.stops)
        async with aclosing(self._tokens(front, most)) as written:
            async for token in written:
                self.tokens += 1
                if piece := pieces.add(token):
                    yield piece
                if pieces.stopped:
                    break
        if rest := pieces.finish():
            yield rest
        if pieces.stopped or self.tokens < most:
            self.reason = "stop"
        took = time.perf_counter() - self.began
        kept = self.asked.answered(pieces.text)
        self.endpoint.metrics.steered(
            self.endpoint.model, self.destination.tier, self.destination.why, took
        )
        self.endpoint.sample(self.release, [kept], self.context, self.request_id, took * 1e3)

    async def _tokens(self, front: LanguageFront, most: int) -> AsyncGenerator[int]:
        """Yield tokens; the first one's time, and a failure, are noted."""
        steering, destination = self.endpoint.steering, self.destination
        try:
            async with aclosing(
                front.generator.write(self.prompt, self.asked.sampling, most)
            ) as written:
                async for token in self._in_time(written):
                    if not self.tokens:
                        steering.saw(destination, time.perf_counter() - self.began)
                    yield token
        except (BadInput, Overloaded, GeneratorExit):
            raise
        except Exception:
            steering.missed(destination)
            raise

    async def _in_time(self, written: AsyncGenerator[int]) -> AsyncIterator[int]:
        """Yield tokens; raises `TooSlow` where the next one does not come in an answer's time."""
        seconds = self.endpoint.timeout_s
        while True:
            try:
                async with asyncio.timeout(seconds):
                    token = await anext(written)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise TooSlow(
                    f"{self.endpoint.model} wrote nothing for {seconds:g} s: send it again later"
                ) from None
            yield token

    def document(self, choice: Mapping[str, Any], *, streamed: bool) -> dict[str, Any]:
        """Return OpenAI's envelope of one choice."""
        chat = isinstance(self.asked, ChatRequest)
        kind = ("chat.completion" + ".chunk" * streamed) if chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
            "system_fingerprint": self.release.digest[:16],
            "release": {
                "version": self.release.version,
                "tier": self.destination.tier,
                "routed": self.destination.why,
            },
            "choices": [{"index": 0, "logprobs": None, **choice}],
        }

    @property
    def usage(self) -> dict[str, int]:
        """Return the tokens that were read and written."""
        read = len(self.prompt)
        return {
            "prompt_tokens": read,
            "completion_tokens": self.tokens,
            "total_tokens": read + self.tokens,
        }

    async def whole(self) -> dict[str, Any]:
        """Return the answer at once."""
        text = "".join([piece async for piece in self.pieces()])
        chat = isinstance(self.asked, ChatRequest)
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        document = self.document({**said, "finish_reason": self.reason}, streamed=False)
        return {**document, "usage": self.usage}

    async def events(self) -> AsyncIterator[bytes]:
        """Yield server-sent events, the last of which says [DONE]."""
        chat = isinstance(self.asked, ChatRequest)
        if chat:
            yield _event(self.document(_delta({"role": "assistant", "content": ""}), streamed=True))
        try:
            async for piece in self.pieces():
                said = _delta({"content": piece}) if chat else {"text": piece, **_OPEN}
                yield _event(self.document(said, streamed=True))
        except Exception as error:  # the status was sent: the stream tells it
            yield b"data: " + problem_of(error).body + b"\n\n"
            return
        end: dict[str, object] = {"delta": {}} if chat else {"text": ""}
        yield _event(self.document({**end, "finish_reason": self.reason}, streamed=True))
        if self.asked.stream_options.include_usage:
            document = self.document({}, streamed=True)
            yield _event({**document, "choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"


_OPEN = {"finish_reason": None}


def completion_routes(gateway: Gateway) -> list[Route]:
    """Return the routes over a gateway's models."""

    async def chat(request: Request) -> Response:
        return await answer(request, ChatRequest)

    async def complete(request: Request) -> Response:
        return await answer(request, CompletionRequest)

    async def answer(
        request: Request, kind: type[ChatRequest] | type[CompletionRequest]
    ) -> Response:
        return await answering(gateway, request, lambda body: _answer(gateway, request, body, kind))

    return [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", complete, methods=["POST"]),
    ]


async def _answer(
    gateway: Gateway,
    request: Request,
    body: bytes,
    kind: type[ChatRequest] | type[CompletionRequest],
) -> tuple[str, Response]:
    asked = read_body(kind, body)
    asked.require_known()
    endpoint = gateway.endpoint(asked.model)
    champion = endpoint.current()
    asking = asking_of({"tenant": asked.user}, request.headers)
    prompt = _front(champion).prompt(asked.text)
    destination = endpoint.steering.destination(champion, asking, len(prompt))
    request_id = request.scope.get(KEY, "")
    answer = _Answer(asked, endpoint, destination, prompt, asking.context, request_id)
    if not asked.stream:
        return asked.model, json_response(await while_waited_for(request, answer.whole()))
    stream = StreamingResponse(answer.events(), media_type="text/event-stream")
    return asked.model, stream


def _front(release: ServedRelease) -> LanguageFront:
    if not isinstance(release.front, LanguageFront):
        raise BadInput(
            f"{release.model} writes no texts: ask it at /v2/models/{release.model}/infer"
        )
    return release.front


def _delta(said: Mapping[str, str]) -> dict[str, Any]:
    return {"delta": said, **_OPEN}


def _event(document: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"
