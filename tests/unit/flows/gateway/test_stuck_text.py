"""A text that does not go on is given up in the time of an answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from flows.gateway.generation import MOST_WAITING, TextGenerator
from flows.gateway.openai_api.completions import CompletionRequest, _Answer
from infra.gateway.batching import DynamicBatcher
from infra.gateway.endpoint import Endpoint, TooSlow
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.steering.destination import Destination
from infra.gateway.wire.signature import GraphSignature
from tasks.models.decoding.generation import GREEDY

NOTHING: Any = None


class Stuck:
    """Writes one token, and no other."""

    ended = False

    async def write(self, *_: Any) -> AsyncGenerator[int]:
        try:
            yield 7
            await asyncio.sleep(30)
        finally:
            self.ended = True


def test_a_text_that_gets_stuck_is_too_slow_and_frees_its_place() -> None:
    stuck, metrics, tokens = Stuck(), GatewayMetrics(), list[int]()
    endpoint = Endpoint("m", DynamicBatcher("m", metrics), metrics, timeout_s=0.05)
    release = ServedRelease("m", "1", "d", "t", NOTHING, GraphSignature((), (), False), NOTHING)
    asked = CompletionRequest(model="m", prompt="a")
    answer = _Answer(asked, endpoint, Destination(release), [1], {})
    front: Any = SimpleNamespace(generator=stuck)

    async def read() -> None:
        async for token in answer._tokens(front, 4):
            tokens.append(token)

    with pytest.raises(TooSlow, match=r"m wrote nothing for 0\.05 s"):
        asyncio.run(read())
    assert tokens == [7]
    assert stuck.ended


def test_a_text_that_was_given_up_takes_no_place_among_those_that_wait() -> None:
    async def scenario() -> None:
        generator = TextGenerator("m", NOTHING, NOTHING)
        generator._thread = threading.Thread()  # at work on others: what comes waits

        async def asked() -> asyncio.Task[int]:
            task = asyncio.create_task(anext(generator.write([1], GREEDY, 1)))
            await asyncio.sleep(0)
            return task

        for task in [await asked() for _ in range(MOST_WAITING)]:
            task.cancel()
            await asyncio.wait([task])
        waits = await asked()
        assert not waits.done()
        waits.cancel()

    asyncio.run(scenario())
