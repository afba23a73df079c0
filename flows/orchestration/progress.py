"""What a long run is doing right now: one line at a time, to who listens and to Prefect."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.orchestration.orchestrated import note
from infra.processes.telling import heard_by
from tasks.step import in_flow_run

Listener = Callable[[str, float], object]
"""Called with a sentence and the fraction done, 0..1."""

_listeners: list[Listener] = []
_done_outside: ContextVar[float] = ContextVar("done_outside", default=0.0)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call the listener for every step inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Progress:
    """The progress of one flow run; of one inside another it is what the other had left to do."""

    def __init__(self, description: str) -> None:
        artifact = (
            create_progress_artifact(progress=0.0, description=description)
            if in_flow_run()
            else None
        )
        self._artifact = artifact if isinstance(artifact, UUID) else None
        self._start = _done_outside.get()
        self._fraction = 0.0

    @contextmanager
    def the_rest(self) -> Iterator[None]:
        """Let the flow that is called inside the block fill what is left."""
        token = _done_outside.set(self._of_all(self._fraction))
        try:
            yield
        finally:
            _done_outside.reset(token)

    @contextmanager
    def details(self) -> Iterator[None]:
        """Say once in a while what the steps inside the block are at, such as a decoder layer."""
        with heard_by(lambda sentence: self.step(sentence, self._fraction)):
            yield

    def step(self, sentence: str, fraction: float) -> None:
        """Say what comes next; it is told to the listeners, and to Prefect's page and log."""
        self._fraction = fraction
        for listener in _listeners:
            listener(sentence, self._of_all(fraction))
        note(sentence)
        if self._artifact is not None:
            percent = round(100 * fraction, 1)
            update_progress_artifact(self._artifact, progress=percent, description=sentence)

    def _of_all(self, fraction: float) -> float:
        return self._start + (1 - self._start) * fraction
