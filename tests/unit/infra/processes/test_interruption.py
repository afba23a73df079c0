"""Being asked to stop, and what is finished first."""

import signal
from collections.abc import Iterator

import pytest

from infra.processes.interruption import ASKED, Interrupted, raise_when_asked, undisturbed


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {asked: signal.getsignal(asked) for asked in ASKED}
    raise_when_asked()
    yield
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
