"""Requests that wait share a run, each gets its own rows, and a full queue says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import BadInput
from infra.gateway.batching import MOST_TOGETHER, DynamicBatcher, Overloaded
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.wire.signature import GraphSignature


class Doubling:
    """An engine that doubles x, one run at a time, once it is let."""

    def __init__(self, *, keeps_batch: bool = True) -> None:
        self.go, self.runs, self._keeps = threading.Event(), list[int](), keeps_batch

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.go.wait(10)
        self.runs.append(len(feeds["x"]))
        if np.isnan(feeds["x"]).any():
            raise BadInput("the engine refused its inputs")
        return {"y": feeds["x"] * 2 if self._keeps else feeds["x"].sum(keepdims=True)}


def release(engine: Any, *, shared: bool = True, digest: str = "d") -> ServedRelease:
    front: Any = None
    return ServedRelease("m", "1", digest, "t", engine, GraphSignature((), (), shared), front)


def rows(*values: float, width: int = 1) -> dict[str, NDArray[np.float32]]:
    return {"x": np.asarray(values, np.float32).reshape(-1, 1).repeat(width, axis=1)}


async def together(batcher: DynamicBatcher, engine: Doubling, asked: list[Any]) -> list[Any]:
    """Let all wait before the first run ends."""
    tasks = [asyncio.create_task(batcher.run(*each)) for each in asked]
    await asyncio.sleep(0.05)
    engine.go.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def batcher(**options: int) -> DynamicBatcher:
    return DynamicBatcher("m", GatewayMetrics(), **options)


def test_what_waits_shares_a_run_and_each_gets_its_own_rows() -> None:
    async def scenario() -> None:
        engine = Doubling()
        served = release(engine)
        asked = [(served, rows(n, n + 0.5)) for n in range(5)]
        answers = await together(batcher(), engine, asked)
        for number, answer in enumerate(answers):
            assert answer["y"].ravel().tolist() == [2 * number, 2 * number + 1]
        assert engine.runs == [2, 8]

    asyncio.run(scenario())


def test_other_shapes_other_releases_and_graphs_without_a_batch_run_apart() -> None:
    async def scenario() -> None:
        engine = Doubling()
        one, other = release(engine), release(engine, digest="e")
        alone = release(engine, shared=False, digest="f")
        asked = [
            (one, rows(0)),
            (one, rows(1)),
            (one, rows(2, width=3)),
            (other, rows(3)),
            (one, rows(4)),
            (alone, rows(5)),
            (alone, rows(6)),
        ]
        answers = await together(batcher(), engine, asked)
        assert [answer["y"][0, 0] for answer in answers] == [0, 2, 4, 6, 8, 10, 12]
        assert engine.runs == [1, 2, 1, 1, 1, 1]

    asyncio.run(scenario())


def test_a_run_has_at_most_the_most_rows() -> None:
    async def scenario() -> None:
        engine = Doubling()
        asked = [(release(engine), rows(n)) for n in range(10)]
        await together(batcher(most_rows=4), engine, asked)
        assert engine.runs == [1, 4, 4, 1]

    asyncio.run(scenario())


def test_many_rows_of_one_request_run_in_parts_between_others() -> None:
    async def scenario() -> None:
        engine = Doubling()
        asked = [(release(engine), rows(*range(11))), (release(engine), rows(20, 21, 22))]
        large, small = await together(batcher(most_rows=4), engine, asked)
        assert large["y"].ravel().tolist() == [2 * n for n in range(11)]
        assert small["y"].ravel().tolist() == [40, 42, 44]
        assert engine.runs == [4, 3, 4, 3]

    asyncio.run(scenario())


def test_many_rows_of_a_graph_that_does_not_keep_its_batch_run_at_once() -> None:
    async def scenario() -> None:
        engine = Doubling(keeps_batch=False)
        [answer] = await together(
            batcher(most_rows=4), engine, [(release(engine), rows(1, *[0] * 9))]
        )
        assert answer["y"].tolist() == [[1]]
        assert engine.runs == [4, 10]

    asyncio.run(scenario())


def test_rows_that_cannot_go_in_parts_are_bounded() -> None:
    async def refused(engine: Doubling, chosen: ServedRelease, runs: list[int]) -> None:
        asked = [(chosen, rows(*[1] * count)) for count in (MOST_TOGETHER, MOST_TOGETHER + 1)]
        answer, error = await together(batcher(most_rows=4), engine, asked)
        assert not isinstance(answer, Exception)
        assert isinstance(error, BadInput)
        assert "257 rows were sent" in str(error)
        assert engine.runs == runs

    mixing = Doubling()
    signature = GraphSignature((), (), shared=False, mixes=True)
    asyncio.run(refused(mixing, replace(release(mixing), signature=signature), [MOST_TOGETHER]))
    summing = Doubling(keeps_batch=False)  # each part's answer is no part's
    asyncio.run(refused(summing, release(summing), [4, 4, MOST_TOGETHER]))


def test_a_full_queue_refuses_the_next_and_answers_the_others() -> None:
    async def scenario() -> None:
        engine = Doubling()
        asked = [(release(engine), rows(n)) for n in range(6)]
        answers = await together(batcher(most_waiting=3), engine, asked)
        refused = [answer for answer in answers if isinstance(answer, Overloaded)]
        assert len(refused) == 2
        assert refused[0].retry_after_s >= 1
        assert sum(isinstance(answer, dict) for answer in answers) == 4

    asyncio.run(scenario())


def test_who_gave_up_takes_no_place_in_the_queue() -> None:
    async def scenario() -> None:
        engine, queue = Doubling(), batcher(most_waiting=2)
        served = release(engine)
        running = asyncio.create_task(queue.run(served, rows(1)))
        await asyncio.sleep(0.05)
        left = [asyncio.create_task(queue.run(served, rows(2))) for _ in range(2)]
        await asyncio.sleep(0)
        for task in left:
            task.cancel()
        await asyncio.sleep(0)
        asked = asyncio.create_task(queue.run(served, rows(3)))
        await asyncio.sleep(0)
        engine.go.set()
        assert (await running)["y"].tolist() == [[2]]
        assert (await asked)["y"].tolist() == [[6]]

    asyncio.run(scenario())


def test_an_engines_refusal_reaches_its_callers_and_the_queue_goes_on() -> None:
    async def scenario() -> None:
        engine = Doubling()
        queue = batcher()
        asked = [(release(engine), rows(float("nan"))), (release(engine), rows(1))]
        first, second = await together(queue, engine, asked)
        assert isinstance(first, BadInput)
        assert second["y"][0, 0] == 2
        assert (await queue.run(release(engine), rows(3)))["y"][0, 0] == 6

    asyncio.run(scenario())


def test_who_gave_up_takes_no_part_in_a_run() -> None:
    async def scenario() -> None:
        engine = Doubling()
        queue, served = batcher(), release(engine)
        first = asyncio.create_task(queue.run(served, rows(1)))
        second = asyncio.create_task(queue.run(served, rows(2)))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0)
        engine.go.set()
        await first
        await queue.drain()
        assert engine.runs == [1]

    asyncio.run(scenario())


def test_a_graph_that_does_not_keep_its_batch_is_run_request_by_request() -> None:
    async def scenario() -> None:
        engine = Doubling(keeps_batch=False)
        asked = [(release(engine), rows(n)) for n in range(3)]
        answers = await together(batcher(), engine, asked)
        assert [answer["y"].item() for answer in answers] == [0, 1, 2]
        assert engine.runs == [1, 2, 1, 1]

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [1, 7])
def test_drain_waits_for_what_runs(count: int) -> None:
    async def scenario() -> None:
        engine = Doubling()
        queue = batcher()
        tasks = [asyncio.create_task(queue.run(release(engine), rows(n))) for n in range(count)]
        await asyncio.sleep(0.02)
        draining = asyncio.create_task(queue.drain())
        await asyncio.sleep(0.02)
        assert not draining.done()
        engine.go.set()
        await draining
        assert all(task.done() for task in tasks)

    asyncio.run(scenario())
