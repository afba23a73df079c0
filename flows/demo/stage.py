"""What the scenes share: the shipped data, the calendar, and the traffic they write."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from flows.demo import GroupChange
from infra.identifiers import RequestId
from infra.settings import settings
from tasks.models.corpus import read_corpus
from tasks.records import Request
from tasks.traffic.storage.parts import write_traffic

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
APART = timedelta(days=2)
"""Scenes lie further apart than one traffic window is long."""
LABELLED_FRACTION = 0.3
"""Somebody has looked at so many of the images and said what they show."""
TEXTS = 320
"""Requests in one text scene."""


class Stage:
    """Data, calendar and notes of one demo."""

    def __init__(self) -> None:
        self._minilm, self._digits = _corpus("minilm"), _corpus("digits")
        self._rng = np.random.default_rng(7)
        self._day = 0
        self.summary: list[GroupChange] = []
        self.reports: list[str] = []

    def serve(self, model: str, requests: Sequence[Request]) -> None:
        """Write one day of traffic, later than every day before."""
        self._day += 1
        start = START + self._day * APART
        write_traffic(
            settings().store(),
            model,
            [
                replace(
                    request,
                    request_id=RequestId(f"day{self._day}-{number}"),
                    tenant=f"tenant-{number % 5}",
                    time=start + timedelta(minutes=number),
                )
                for number, request in enumerate(requests)
            ],
        )

    def texts(self, *, domains: Sequence[str] = (), languages: Sequence[str] = ()) -> list[Request]:
        """Return texts of these domains and languages, shuffled."""
        fitting = [
            text
            for text in self._minilm
            if (not domains or text.domain in domains)
            and (not languages or text.language in languages)
        ]
        return [fitting[place] for place in self._rng.permutation(len(fitting))[:TEXTS]]

    def images(self, *exposures: float) -> list[Request]:
        """Return every image, each at one of the exposures; a fraction of them labelled."""
        drawn = self._rng.choice(exposures, len(self._digits))
        return [
            replace(
                image,
                payload=np.asarray(image.payload, np.float32) * np.float32(exposure),
                domain=f"exposure-{exposure:g}",
                label=image.label if self._rng.random() < LABELLED_FRACTION else None,
            )
            for image, exposure in zip(self._digits, drawn, strict=True)
        ]


def _corpus(name: str) -> tuple[Request, ...]:
    path = EXAMPLES / name / "traffic.parquet"
    return read_corpus(path.read_bytes(), where=str(path))
