"""Who is told what became of the routine tier's requests."""

from __future__ import annotations

from typing import Protocol

from infra.gateway.release import ServedRelease
from infra.gateway.steering.shadow import Tensors


class AnswerObserver(Protocol):
    """What judges live answers; it is asked on the request's path, and only takes notes."""

    @property
    def share(self) -> float:
        """The share of requests that are answered by both releases."""
        ...

    def answered(self, release: ServedRelease, seconds: float) -> None:
        """Note an answer."""
        ...

    def failed(self, release: ServedRelease) -> None:
        """Note a request that got no answer though nothing was wrong with it."""
        ...

    def compared(self, reference: Tensors, outputs: Tensors | None) -> None:
        """Note what the release in question answers beside the reference; None: it failed."""
        ...
