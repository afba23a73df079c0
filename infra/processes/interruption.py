"""Being asked to stop: Ctrl-C and SIGTERM as one exception, and blocks that are not broken off in the middle."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """This process was asked to stop; the message says what it was doing, as far as that is known.

    No `Exception`, so that nobody takes it for a failure; no `KeyboardInterrupt` either, which libraries swallow.
    """


def raise_when_asked() -> None:
    """Let SIGINT and SIGTERM raise `Interrupted` in the main thread, each time.

    A shell's background jobs start with SIGINT ignored; they are stopped by it all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for asked in ASKED:
        signal.signal(asked, _interrupt)


def ignore_from_now_on() -> None:
    """Let this process end in its own time: nothing is left that a signal could spare anybody."""
    for asked in ASKED:
        signal.signal(asked, signal.SIG_IGN)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Finish the block first: a signal that comes meanwhile raises `Interrupted` at its end.

    For what must not be left half done: a few writes, or the end of processes that were started here.
    """
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # only the main thread is interrupted
        yield
        return
    came = threading.Event()
    before = {asked: signal.signal(asked, lambda *_: came.set()) for asked in ASKED}
    try:
        yield
    finally:
        for asked, handler in before.items():
            signal.signal(asked, signal.SIG_DFL if handler is None else handler)
        if came.is_set():
            raise Interrupted


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted
