"""A share of the requests is answered a second time, off their path, by another release."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from infra.errors import BadInput
from infra.gateway.batching import DynamicBatcher, Overloaded
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease

Tensors = Mapping[str, NDArray[Any]]
Then = Callable[[Tensors | None, float], None]
"""Takes the second answer, None where the engine failed, and its seconds."""


class ShadowRuns:
    """The second answers of one model; one at a time, so that requests hardly wait for them."""

    def __init__(self, model: str, batcher: DynamicBatcher, metrics: GatewayMetrics) -> None:
        self._model, self._batcher, self._metrics = model, batcher, metrics
        self._running: asyncio.Task[None] | None = None
        self._die = random.Random()  # noqa: S311  # draws a sample, and guards no secret

    def draw(self, share: float) -> bool:
        """Return whether a request is of the share that is answered again."""
        return self._die.random() < share

    def run(self, release: ServedRelease, feeds: Tensors, then: Then) -> None:
        """Answer a request again; while another one is at work, it is left out and counted."""
        if self._running is not None and not self._running.done():
            self._metrics.shadowed(self._model, "busy")
            return
        self._running = asyncio.create_task(self._answer(release, feeds, then))

    async def _answer(self, release: ServedRelease, feeds: Tensors, then: Then) -> None:
        began = time.perf_counter()
        try:
            outputs: Tensors | None = await self._batcher.run(release, feeds)
        except (Overloaded, BadInput):
            self._metrics.shadowed(self._model, "refused")
            return
        except Exception:  # whatever it is, nobody waits for this answer
            outputs = None
        self._metrics.shadowed(self._model, "failed" if outputs is None else "answered")
        then(outputs, time.perf_counter() - began)
