"""Being asked to stop: Ctrl-C and SIGTERM as one exception, and blocks that are finished first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """This process was asked to stop.

    The message says what it was doing, as far as that is known. It is no `Exception`, so that
    nobody takes it for a failure; no `KeyboardInterrupt` either, which libraries swallow.
    """


def raise_when_asked() -> None:
    """Let SIGINT and SIGTERM raise `Interrupted` in the main thread, each time.

    A shell's background jobs start with SIGINT ignored; they are stopped by it all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ASKED:
        signal.signal(number, _interrupt)


def ignore_from_now_on() -> None:
    """Let this process end in its own time: nothing is left that a signal could spare anybody."""
    for number in ASKED:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Finish the block first: a signal that comes meanwhile raises `Interrupted` at its end.

    It is for what must not be left half done: a few writes, or the end of processes that were
    started here.
    """
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # only the main thread is interrupted
        yield
        return
    came = threading.Event()
    before = {number: signal.signal(number, lambda *_: came.set()) for number in ASKED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came.is_set():
            raise Interrupted


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted
