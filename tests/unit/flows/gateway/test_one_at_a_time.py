"""What fills all cores is done by one thread at a time, also where its callers give up."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from flows.gateway.openai_api.one_at_a_time import OneAtATime
from infra.gateway.batching import Overloaded


class Busy:
    """Work that notes how many are at it at once."""

    def __init__(self, seconds: float = 0.05) -> None:
        self._seconds, self._lock = seconds, threading.Lock()
        self._now = self.most = self.done = 0

    def __call__(self) -> int:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._seconds)
        with self._lock:
            self._now -= 1
            self.done += 1
        return self.done


def test_who_gives_up_frees_no_place_before_the_thread_has_ended() -> None:
    async def scenario() -> Busy:
        desk, busy = OneAtATime(), Busy()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await desk.run("m", busy)
        assert await desk.run("m", busy) == busy.done
        return busy

    busy = asyncio.run(scenario())
    assert busy.most == 1
    assert busy.done == 2, "those who gave up while they waited are not worked for"


def test_a_failure_reaches_its_caller_and_the_next_is_worked_for() -> None:
    def breaks() -> int:
        raise ValueError("it broke")

    async def scenario() -> int:
        desk = OneAtATime()
        with pytest.raises(ValueError, match="it broke"):
            await desk.run("m", breaks)
        return await desk.run("m", Busy(0.0))

    assert asyncio.run(scenario()) == 1


def test_more_than_may_wait_are_refused() -> None:
    async def scenario() -> list[object]:
        desk, busy = OneAtATime(most_waiting=2), Busy()
        asked = [desk.run("m", busy) for _ in range(5)]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    answers = asyncio.run(scenario())
    assert sum(isinstance(answer, Overloaded) for answer in answers) >= 2
    assert sum(isinstance(answer, int) for answer in answers) >= 2
