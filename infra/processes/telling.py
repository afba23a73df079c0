"""What a long step is at, told to who listens in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

EVERY = 10.0
"""Seconds between two sentences: what is done by then needs none."""

_listeners: list[_Listener] = []


class _Listener:
    def __init__(self, hear: Callable[[str], object]) -> None:
        self._hear, self._last = hear, monotonic()

    def tell(self, sentence: str) -> None:
        if monotonic() - self._last >= EVERY:
            self._last = monotonic()
            self._hear(sentence)


@contextmanager
def heard_by(hear: Callable[[str], object]) -> Iterator[None]:
    """Call a function with what steps inside the block are at, every `EVERY` seconds at most."""
    listener = _Listener(hear)
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(sentence: str) -> None:
    """Say what is being done now; of two listeners, one inside the other, the inner one hears."""
    if _listeners:
        _listeners[-1].tell(sentence)
