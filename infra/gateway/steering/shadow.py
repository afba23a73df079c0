"""A share of the requests is answered a second time, off their path, by another release."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from infra.errors import BadInput
from infra.gateway.batching import DynamicBatcher, Overloaded
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class SecondAnswer:
    """What a release answered off the path of a request."""

    outputs: Tensors | None  # None: the engine failed
    seconds: float


Then = Callable[[Sequence[SecondAnswer]], None]
"""Takes the answers in the order of the releases."""


class ShadowRuns:
    """The second answers of one model; one at a time, so that requests hardly wait for them."""

    def __init__(self, model: str, batcher: DynamicBatcher, metrics: GatewayMetrics) -> None:
        self._model, self._batcher, self._metrics = model, batcher, metrics
        self._running: asyncio.Task[None] | None = None
        self._die = random.Random()  # noqa: S311  # draws a sample, and guards no secret

    def draw(self, share: float) -> bool:
        """Return whether a request is of the share that is answered again."""
        return self._die.random() < share

    def run(self, releases: Sequence[ServedRelease], feeds: Tensors, then: Then) -> None:
        """Answer a request again by each release; while another one is at work, it is left out.

        They are asked one after the other, in an order that is drawn.
        """
        if self._running is not None and not self._running.done():
            self._metrics.shadowed(self._model, "busy")
            return
        self._running = asyncio.create_task(self._answer(releases, feeds, then))

    async def _answer(self, releases: Sequence[ServedRelease], feeds: Tensors, then: Then) -> None:
        answers: dict[int, SecondAnswer] = {}
        for place in self._die.sample(range(len(releases)), len(releases)):
            answer = await self._second(releases[place], feeds)
            if answer is None:
                self._metrics.shadowed(self._model, "refused")
                return
            answers[place] = answer
        failed = any(answer.outputs is None for answer in answers.values())
        self._metrics.shadowed(self._model, "failed" if failed else "answered")
        then([answers[place] for place in range(len(releases))])

    async def _second(self, release: ServedRelease, feeds: Tensors) -> SecondAnswer | None:
        """Return an answer; None where the request was refused, which says nothing of a release."""
        began = time.perf_counter()
        try:
            outputs: Tensors | None = await self._batcher.run(release, feeds)
        except (Overloaded, BadInput):
            return None
        except Exception:  # whatever it is, nobody waits for this answer
            outputs = None
        return SecondAnswer(outputs, time.perf_counter() - began)
