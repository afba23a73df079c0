"""What a long run is doing right now: one line at a time, to whoever listens and to Prefect's own page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

Listener = Callable[[str, float], None]
"""Called with a sentence and the share done, 0..1."""

_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call the listener for every step inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Progress:
    """The progress of one flow run."""

    def __init__(self, what: str) -> None:
        artifact = create_progress_artifact(progress=0.0, description=what)
        self._artifact = artifact if isinstance(artifact, UUID) else None

    def step(self, sentence: str, share: float) -> None:
        """Say what comes next."""
        for listener in _listeners:
            listener(sentence, share)
        if self._artifact is not None:
            update_progress_artifact(self._artifact, progress=round(100 * share, 1), description=sentence)
