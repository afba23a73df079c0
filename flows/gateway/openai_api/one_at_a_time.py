"""Work that fills all cores: one piece after the other, in a thread, before a bounded queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from infra.gateway.batching import Overloaded

Result = TypeVar("Result")
MOST_WAITING = 64
"""Pieces of work that wait; the next is refused."""


class OneAtATime:
    """A queue before one thread at work.

    A thread cannot be stopped: whoever gives up no longer waits for it, and the next piece still
    does.
    """

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._most, self._waiting, self._seconds = most_waiting, 0, 1.0
        self._working = asyncio.Semaphore(1)

    def require_room(self, model: str) -> None:
        """Raise `Overloaded` where too many pieces of work wait already."""
        if self._waiting >= self._most:
            raise Overloaded(model, self._waiting, max(1, round(self._waiting * self._seconds)))

    async def run(self, model: str, work: Callable[[], Result]) -> Result:
        """Return what the work returns.

        Raises:
            Overloaded: Too many wait.
        """
        self.require_room(model)
        self._waiting += 1
        try:
            await self._working.acquire()
        finally:
            self._waiting -= 1
        began = time.perf_counter()
        task = asyncio.ensure_future(asyncio.to_thread(work))

        def ended(done: asyncio.Future[Result]) -> None:
            self._working.release()
            self._seconds += 0.1 * (time.perf_counter() - began - self._seconds)
            if not done.cancelled():
                done.exception()  # which nobody may wait for any more

        task.add_done_callback(ended)
        return await asyncio.shield(task)
