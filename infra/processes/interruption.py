"""Being asked to stop: Ctrl-C and SIGTERM as one exception, and blocks that are finished first."""

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TypeAlias

ASKED = (signal.SIGINT, signal.SIGTERM)

_AGAIN_AFTER_S = 0.01
_Hook: TypeAlias = "Callable[[sys.UnraisableHookArgs], object]"
_ExceptHook: TypeAlias = Callable[
    [type[BaseException], BaseException, TracebackType | None], object
]


class Interrupted(BaseException):
    """This process was asked to stop.

    The message says what it was doing, as far as that is known. It is no `Exception`, so that
    nobody takes it for a failure; no `KeyboardInterrupt` either, which libraries swallow.
    """


def raise_when_asked() -> None:
    """Let SIGINT and SIGTERM raise `Interrupted` in the main thread, each time.

    A shell's background jobs start with SIGINT ignored; they are stopped by it all the same. What
    a signal raises within a finalizer, Python prints and forgets: it is raised again after it, and
    not printed.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    sys.unraisablehook = _heeding(sys.unraisablehook)
    sys.excepthook = _at_the_end(sys.excepthook)
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


def _heeding(print_it: _Hook) -> _Hook:
    """Ask again where a finalizer or a callback of the collector swallowed the interruption.

    The thread is a bare one: the collector may run while this one holds a lock that
    `threading.Thread.start` takes.
    """

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.exc_type is Interrupted:
            _thread.start_new_thread(_ask_again, ())
        else:
            print_it(unraisable)

    return hook


def _at_the_end(print_it: _ExceptHook) -> _ExceptHook:
    """Print no interruption that Cython swallows, and prints before the hook above is asked.

    Whoever runs meanwhile is a frame below; an exception that ends the process has none left.
    """

    def hook(
        kind: type[BaseException], exc: BaseException, traceback: TracebackType | None
    ) -> None:
        swallowed = issubclass(kind, Interrupted) and sys._getframe().f_back is not None
        if not swallowed:
            print_it(kind, exc, traceback)

    return hook


def _ask_again() -> None:
    time.sleep(_AGAIN_AFTER_S)
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGINT)
