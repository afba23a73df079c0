"""Being asked to stop, and what is finished first."""

import gc
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from infra.processes.interruption import ASKED, Interrupted, raise_when_asked, undisturbed


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {asked: signal.getsignal(asked) for asked in ASKED}
    unraisable, uncaught = sys.unraisablehook, sys.excepthook
    raise_when_asked()
    yield
    sys.unraisablehook, sys.excepthook = unraisable, uncaught
    for asked, handler in before.items():
        signal.signal(asked, handler)


@pytest.mark.parametrize("asked", ASKED)
def test_ctrl_c_and_sigterm_are_one_wish(asked: signal.Signals) -> None:
    with pytest.raises(Interrupted):
        signal.raise_signal(asked)


@pytest.mark.parametrize("asked", ASKED)
def test_what_must_not_be_left_half_done_is_finished_first(asked: signal.Signals) -> None:
    done = []

    def finish() -> None:
        with undisturbed():
            signal.raise_signal(asked)
            signal.raise_signal(asked)
            done.append("all of it")

    with pytest.raises(Interrupted):
        finish()
    assert done == ["all of it"]


def test_afterwards_signals_interrupt_as_before() -> None:
    with undisturbed():
        pass
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGINT)


class Finalized:
    """Asks to stop while it is finalized, where Python swallows what is raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def by_finalizer() -> None:
    Finalized()


def by_weak_reference() -> None:
    class Held: ...

    held = Held()
    seen = weakref.ref(held, lambda _: signal.raise_signal(signal.SIGTERM))
    del held
    assert seen() is None


def by_collector() -> None:
    def collecting(phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            signal.raise_signal(signal.SIGTERM)

    gc.collect()
    gc.freeze()  # what earlier tests left would be finalized while the signal comes again
    gc.callbacks.append(collecting)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(collecting)
        gc.unfreeze()


@pytest.mark.parametrize("swallow", [by_finalizer, by_weak_reference, by_collector])
def test_an_interruption_that_python_swallows_comes_again(
    swallow: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    swallow()
    with pytest.raises(Interrupted):
        time.sleep(30)
    assert capsys.readouterr().err == ""


def test_an_interruption_that_cython_swallows_is_not_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Cython hands what a finalizer of its own raises to `sys.excepthook`, in the running frame."""
    sys.excepthook(Interrupted, Interrupted(), None)
    assert capsys.readouterr().err == ""


def test_an_interruption_that_ends_the_process_is_printed() -> None:
    uncaught = (
        "from infra.processes.interruption import Interrupted, raise_when_asked\n"
        "raise_when_asked()\n"
        "raise Interrupted('while it wrote')\n"
    )
    ended = subprocess.run([sys.executable, "-c", uncaught], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.endswith("Interrupted: while it wrote\n")


def test_other_failures_are_printed_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    sys.excepthook(ValueError, ValueError("broken"), None)
    assert "ValueError: broken" in capsys.readouterr().err


def test_other_failures_of_finalizers_are_printed_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_value))
    raise_when_asked()

    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken")

    Broken()
    assert [str(failure) for failure in seen] == ["broken"]
