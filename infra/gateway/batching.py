"""Dynamic batching without a timer: what waits while the engine works goes through it together.

A lone request never waits for company, so that nothing is added to its latency; under load the
batches grow by themselves, up to the most rows. Requests share a run where they go to the same
release and their tensors differ in the batch alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput, RequantError
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease

Feeds = Mapping[str, NDArray[Any]]
MOST_TOGETHER = 256
"""Rows of a request that cannot go through an engine in parts."""


class Overloaded(RequantError):
    """The queue is full; `retry_after_s` is about how long what waits takes."""

    def __init__(self, model: str, waiting: int, retry_after_s: int) -> None:
        super().__init__(
            f"{waiting} requests wait for {model} already: send this one again in about "
            f"{retry_after_s} s"
        )
        self.retry_after_s = retry_after_s


@dataclass(slots=True, eq=False)
class _Waiting:
    release: ServedRelease
    feeds: Feeds
    rows: int
    key: Hashable  # what may share a run has the same; None: nothing may
    answer: asyncio.Future[Feeds] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future(), repr=False
    )


class DynamicBatcher:
    """The queue before one model's engine."""

    def __init__(
        self,
        model: str,
        metrics: GatewayMetrics,
        *,
        most_rows: int = 16,
        most_waiting: int = 256,
        threads: int = 1,
    ) -> None:
        """Make an empty queue.

        Args:
            model: Whose it is.
            metrics: Where batches and waiting requests are counted.
            most_rows: Of one run; on a CPU larger ones cost more a row, not less.
            most_waiting: Requests; the next is refused.
            threads: Runs at once; an engine uses several cores by itself.
        """
        self._model, self._metrics = model, metrics
        self._most_rows, self._most_waiting = most_rows, most_waiting
        self._queue: deque[_Waiting] = deque()
        self._idle = threads
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix=f"engine-{model}")
        self._seconds_a_run = 0.01
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, release: ServedRelease, feeds: Feeds) -> Feeds:
        """Return the outputs of one request.

        A caller that gives up before its run begins takes no part in it. A request of more rows
        than one run has goes through the engine in parts, so that it takes no more memory, and
        others are answered meanwhile. Where a row's answer depends on those beside it, all go at
        once, as in parts the answer would be another one: so they are bounded.

        Raises:
            Overloaded: Too many wait.
            BadInput: The engine refuses the feeds, or there are more rows than go at once.
        """
        if len(self._queue) >= self._most_waiting:
            self._queue = deque(each for each in self._queue if not each.answer.done())
        if len(self._queue) >= self._most_waiting:
            raise Overloaded(self._model, len(self._queue), self._retry_after())
        if release.signature.mixes:
            _require_together(max((len(values) for values in feeds.values()), default=0))
        rows, key = _rows(release, feeds)
        if key is None or rows <= self._most_rows:
            return await self._queued(_Waiting(release, feeds, rows, key))
        parts = []
        for start in range(0, rows, self._most_rows):
            part = {name: item[start : start + self._most_rows] for name, item in feeds.items()}
            size = min(self._most_rows, rows - start)
            outputs = await self._queued(_Waiting(release, part, size, key))
            if any(values.shape[:1] != (size,) for values in outputs.values()):
                # The graph does not keep its batch: its answer is one of all rows.
                _require_together(rows)
                return await self._queued(_Waiting(release, feeds, rows, None))
            parts.append(outputs)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    async def _queued(self, request: _Waiting) -> Feeds:
        self._queue.append(request)
        self._metrics.waits(self._model, len(self._queue))
        self._begin()
        return await request.answer

    async def drain(self) -> None:
        """Wait until nothing waits and nothing runs, and let the threads go."""
        while self._queue or self._running:
            await asyncio.gather(*self._running)
        self._workers.shutdown()

    def _retry_after(self) -> int:
        return max(1, round(len(self._queue) * self._seconds_a_run))

    def _begin(self) -> None:
        """Begin runs while there are requests and threads for them."""
        while self._idle and (batch := self._next()):
            self._idle -= 1
            self._metrics.waits(self._model, len(self._queue))
            task = asyncio.create_task(self._execute(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _next(self) -> list[_Waiting]:
        """Take the oldest request, and those behind it that may share its run."""
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        rows = 0
        while self._queue:
            request = self._queue.popleft()
            if request.answer.done():  # its caller gave up
                continue
            joins = request.key is not None and request.key == (batch[0].key if batch else None)
            if not batch or (joins and rows + request.rows <= self._most_rows):
                batch.append(request)
                rows += request.rows
                if request.key is None or rows >= self._most_rows:
                    break
            else:
                others.append(request)
        others.extend(self._queue)
        self._queue = others
        return batch

    async def _execute(self, batch: list[_Waiting]) -> None:
        began = perf_counter()
        release, rows = batch[0].release, sum(request.rows for request in batch)
        try:
            feeds = _joined([request.feeds for request in batch])
            loop = asyncio.get_running_loop()
            outputs = await loop.run_in_executor(self._workers, release.engine.run, feeds)
            parts = _parted(outputs, [request.rows for request in batch])
        except Exception as error:  # whatever it is, the caller is told, and the queue goes on
            self._failed(batch, error)
        else:
            for request, part in zip(batch, parts, strict=True):
                if not request.answer.done():
                    request.answer.set_result(part)
        finally:
            took = perf_counter() - began
            self._seconds_a_run += 0.1 * (took / len(batch) - self._seconds_a_run)
            self._metrics.ran(self._model, rows, took)
            self._idle += 1
            self._begin()

    def _failed(self, batch: list[_Waiting], error: Exception) -> None:
        """Tell a lone request's caller; of several, each is run alone: one may be at fault."""
        if len(batch) > 1:
            for request in reversed(batch):
                request.key = None
                self._queue.appendleft(request)
        elif not batch[0].answer.done():
            batch[0].answer.set_exception(error)


def _require_together(rows: int) -> None:
    if rows > MOST_TOGETHER:
        raise BadInput(
            f"{rows} rows were sent: this model's answer to a row depends on those beside it, so "
            f"that all go through it at once: send {MOST_TOGETHER} at most"
        )


def _rows(release: ServedRelease, feeds: Feeds) -> tuple[int, Hashable]:
    """Return the rows of a request, and what it may share a run with."""
    shapes = {name: values.shape for name, values in feeds.items()}
    rows = {shape[0] for shape in shapes.values() if shape}
    if not release.signature.shared or len(rows) != 1 or not all(shapes.values()):
        return 1, None
    rest = tuple(sorted((name, shape[1:]) for name, shape in shapes.items()))
    return rows.pop(), (release.digest, rest)


def _joined(requests: list[Feeds]) -> Feeds:
    if len(requests) == 1:
        return requests[0]
    return {name: np.concatenate([feeds[name] for feeds in requests]) for name in requests[0]}


def _parted(outputs: Feeds, rows: list[int]) -> list[Feeds]:
    """Part outputs along the batch again."""
    if len(rows) == 1:
        return [outputs]
    short = next((name for name, values in outputs.items() if len(values) != sum(rows)), None)
    if short is not None:
        raise BadInput(
            f"the output {short} has {len(outputs[short])} rows for {sum(rows)} requests: the "
            "graph does not keep its batch; export it with a fixed one"
        )
    ends = np.cumsum(rows)[:-1]
    split = {name: np.split(values, ends) for name, values in outputs.items()}
    return [{name: parts[place] for name, parts in split.items()} for place in range(len(rows))]
