"""Windows of simulated traffic, measured for every detector.

Whatever a detector may look at is computed once for each payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import ours
from benchmarks.harness.ours import Candidate
from benchmarks.harness.subject import Subject
from infra.engines import open_target
from infra.engines.port import Engine
from tasks.drift import measure
from tasks.graphs.sites import expose
from tasks.metrics.classification import accuracy
from tasks.numerics.histogram import BINS, ExponentHistogram
from tasks.observation.clipped_fraction import Clipping
from tasks.records import Payload, Request
from tasks.specs.traits import TRAITS, Task

SIZE = 256
"""Requests of a window."""
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredWindow:
    """What was measured of one window's requests."""

    requests: tuple[Request, ...] = field(repr=False)
    scores: Numbers  # fidelity of the champion, [requests]
    labelled: tuple[Request, ...] = field(repr=False)  # empty where a label says nothing
    correct: Numbers  # full precision, [labelled]
    vectors: Numbers  # pixels, or full precision's embedding, [requests, width]
    sites: dict[str, ExponentHistogram] = field(repr=False)
    clipping: Clipping = field(repr=False)


class Seen(NamedTuple):
    """One payload at one site: bins that hold something, of thousands, and their counts."""

    bins: NDArray[np.uint16]
    counts: NDArray[np.int32]
    largest: float


@dataclass(eq=False)
class Bench:
    """A champion, its full precision and its reference traffic.

    It remembers every payload that it has measured.
    """

    subject: Subject
    champion: Candidate
    reference: tuple[Request, ...]  # what the champion was calibrated on
    sites: list[str]
    _places: dict[bytes, int] = field(default_factory=dict)
    _scored: dict[bytes, float] = field(default_factory=dict)
    _scores: Numbers = field(default_factory=lambda: np.zeros(0))
    _vectors: Numbers = field(default_factory=lambda: np.zeros((0, 0)))
    _classes: Numbers = field(default_factory=lambda: np.zeros((0, 0)))
    # Of each site, one payload after the other.
    _seen: dict[str, list[Seen]] = field(default_factory=dict)
    _clipped: Numbers = field(default_factory=lambda: np.zeros((0, 0)))  # [payloads, sites]
    _amax: Numbers = field(default_factory=lambda: np.zeros((0, 0)))

    def windows(self, requests: Sequence[Request], size: int = SIZE) -> list[MeasuredWindow]:
        """Return consecutive windows of `size` requests; the rest that fills none is left out."""
        self._learn(requests)
        starts = range(0, len(requests) - size + 1, size)
        return [self._window(tuple(requests[start : start + size])) for start in starts]

    def _window(self, part: tuple[Request, ...]) -> MeasuredWindow:
        places = np.array([self._places[_key(request.payload)] for request in part])
        labelled_places = (
            [number for number, request in enumerate(part) if request.label is not None]
            if self._classes.size
            else []
        )
        labels = np.array([int(part[number].label or -1) for number in labelled_places], np.int64)
        histograms = {
            name: _added([self._seen[name][place] for place in places.tolist()])
            for name in self.sites
        }
        correct = (
            accuracy(self._classes[places[labelled_places]], labels)
            if labelled_places
            else np.zeros(0)
        )
        clipping = Clipping(tuple(self.sites), self._clipped[places], self._amax[places])
        labelled = tuple(part[number] for number in labelled_places)
        return MeasuredWindow(
            part,
            self._scores[places],
            labelled,
            correct,
            self._vectors[places],
            histograms,
            clipping,
        )

    def scores(self, requests: Sequence[Request]) -> Numbers:
        """Return the champion's fidelity, [requests]; nothing else is measured of them."""
        new = {
            key: request.payload
            for request in requests
            if (key := _key(request.payload)) not in self._scored
        }
        if new:
            fidelity = self._compared(list(new.values()))[1]
            self._scored |= dict(zip(new, fidelity.tolist(), strict=True))
        return np.array([self._scored[_key(request.payload)] for request in requests])

    def _compared(self, payloads: Sequence[Payload]) -> tuple[Numbers, Numbers]:
        """Return what full precision answers, and the champion's scores against it."""
        subject, served = self.subject, ours_engine(self.champion)
        answers = measure.answers(subject.spec, subject.reference, served, subject.inputs, payloads)
        return np.asarray(answers.expected), np.asarray(answers.scores, np.float64)

    def _learn(self, requests: Sequence[Request]) -> None:
        new: dict[bytes, Payload] = {}
        for request in requests:
            key = _key(request.payload)
            if key not in self._places and key not in new:
                new[key] = request.payload
        if not new:
            return
        self._places |= {key: len(self._places) + number for number, key in enumerate(new)}
        payloads, subject = list(new.values()), self.subject
        expected, scores = self._compared(payloads)
        self._scores = np.concatenate([self._scores, scores])
        is_embedding = TRAITS[subject.spec.task].fidelity == "cosine"
        vectors = (
            expected
            if is_embedding
            else np.stack([np.asarray(payload).ravel() for payload in payloads])
        )
        self._vectors = _stacked(self._vectors, np.asarray(vectors, np.float64))
        if subject.spec.task is Task.IMAGE_CLASSIFICATION:
            self._classes = _stacked(self._classes, np.asarray(expected, np.float64))
        self._observe(payloads)

    def _observe(self, payloads: Sequence[Payload]) -> None:
        """Observe one request at a time, so that any window of them is a sum."""
        subject = self.subject
        engine = open_target("onnxruntime-cpu").load(
            expose(subject.model, subject.sites).SerializeToString()
        )
        by_name = {site.name: site for site in subject.sites}
        watched, scales = [by_name[name] for name in self.sites], self.champion.derived.scales
        clippings = []
        for payload in payloads:
            histograms, clipping = measure.activations(
                engine, watched, subject.inputs, [payload], scales, rows=1
            )
            clippings.append(clipping)
            for name, histogram in histograms.items():
                used = np.flatnonzero(histogram.counts)
                counts = histogram.counts[used].astype(np.int32)
                row = Seen(used.astype(np.uint16), counts, histogram.amax)
                self._seen.setdefault(name, []).append(row)
        self._clipped = _stacked(
            self._clipped, np.concatenate([part.fraction for part in clippings])
        )
        self._amax = _stacked(self._amax, np.concatenate([part.amax for part in clippings]))


def _added(parts: Sequence[Seen]) -> ExponentHistogram:
    bins, counts = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    total = np.bincount(bins, counts, BINS).astype(np.int64)
    return ExponentHistogram(total, max(part.largest for part in parts))


def open_bench(subject: Subject, reference: Sequence[Request]) -> Bench:
    """Derive a champion by `int8-smooth` from the reference."""
    champion = ours.quantize(subject, "int8-smooth", [request.payload for request in reference])
    return Bench(subject, champion, tuple(reference), sorted(champion.derived.scales))


def ours_engine(candidate: Candidate) -> Engine:
    """Load the candidate on ONNX Runtime."""
    return open_target("onnxruntime-cpu").load(candidate.lowered("u8"))


def _key(payload: Payload) -> bytes:
    return (
        payload.encode("utf-8", "surrogatepass") if isinstance(payload, str) else payload.tobytes()
    )


def _stacked(before: Numbers, more: Numbers) -> Numbers:
    return np.concatenate([before, more]) if before.size else more
