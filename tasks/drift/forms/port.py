"""What the detectors ask of a champion, whatever form its model has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tasks.drift.look import Deployed
from tasks.drift.measure import Answers
from tasks.models.catalog import RegisteredModel
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.clipped_fraction import Clipping
from tasks.records import ReleaseRef, SampleRef


class Watch(Protocol):
    """Reads a window's requests with full precision and a champion."""

    def activations(
        self, model: RegisteredModel, champion: ReleaseRef, window: SampleRef, deployed: Deployed
    ) -> tuple[Mapping[str, ExponentHistogram], Clipping]:
        """Return each site's histogram, and what its deployed range clips of each request."""
        ...

    def answers(self, model: RegisteredModel, champion: ReleaseRef, window: SampleRef) -> Answers:
        """Return how the champion and full precision answer each request."""
        ...

    @property
    def why_unlabelled(self) -> str | None:
        """Why full precision cannot be held against labels; None where it can."""
        ...
