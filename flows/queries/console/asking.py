"""Answers of a neighbour that may be slow or away: the newest known, with its age."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar

from infra.errors import RequantError, Unavailable

T = TypeVar("T")
FRESH_S = 10.0
"""An answer that is younger is not asked for again."""
STALE_S = 120.0
"""An older answer is not shown while a newer one is on its way."""
PATIENCE_S, LONG_PATIENCE_S = 0.05, 5.0
"""How long a page waits for the answer: with one to show meanwhile, and without."""


@dataclass(frozen=True, slots=True)
class LastAnswer(Generic[T]):
    """What a neighbour said last."""

    value: T | None
    problem: str | None  # why there is none
    age_s: float


class Asked(Generic[T]):
    """One question that pages ask again and again."""

    def __init__(self, ask: Callable[[], T], fresh_s: float = FRESH_S) -> None:
        """Ask by `ask`, which raises `RequantError` where there is no answer."""
        self._ask = ask
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="asking")
        self._last: tuple[float, T | None, str | None] | None = None
        self._coming: Future[None] | None = None

    def answer(self) -> LastAnswer[T]:
        """Return the newest answer, waiting for one a moment, or longer where there is none."""
        coming, age = self._refresh(), self._age()
        if coming is not None:
            patience = PATIENCE_S if age is not None and age < STALE_S else LONG_PATIENCE_S
            with suppress(TimeoutError):
                coming.result(patience)
        with self._lock:
            if self._last is None:
                return LastAnswer(None, "there was no answer yet: reload in a moment", 0.0)
            when, value, problem = self._last
            return LastAnswer(value, problem, time.monotonic() - when)

    def prime(self) -> None:
        """Begin to ask, so that the first page need not wait."""
        self._refresh()

    def _age(self) -> float | None:
        with self._lock:
            return None if self._last is None else time.monotonic() - self._last[0]

    def _refresh(self) -> "Future[None] | None":
        with self._lock:
            if self._coming is not None and not self._coming.done():
                return self._coming
            if self._is_fresh():
                return None
            self._coming = self._pool.submit(copy_context().run, self._ask_now)
            return self._coming

    def _is_fresh(self) -> bool:
        """Return whether the last answer need not be asked for again; a failure always is."""
        if self._last is None or self._last[2] is not None:
            return False
        return time.monotonic() - self._last[0] < self._fresh_s

    def _ask_now(self) -> None:
        value: T | None = None
        problem: str | None = None
        try:
            value = self._ask()
        except Unavailable as error:
            problem = str(error)
        except RequantError as error:
            problem = f"the answer cannot be read: {error}"
        with self._lock:
            self._last = (time.monotonic(), value, problem)
