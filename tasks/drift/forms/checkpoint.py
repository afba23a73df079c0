"""A window held against a champion that is a checkpoint: both are read a layer at a time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import onnx

from infra.identifiers import Key
from tasks.drift import loading
from tasks.drift.look import Deployed
from tasks.drift.measure import Answers
from tasks.layerwise.comparing import ComparedTexts, compare_payloads
from tasks.models.catalog import RegisteredModel, open_exactly
from tasks.models.checkpoints.carried import CarriedCheckpoint
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.clipped_fraction import Clipping
from tasks.records import ReleaseRef, SampleRef
from tasks.traffic.storage.samples import read_requests


class CheckpointWatch:
    """One pass tells ranges and answers; the next detector of the same window finds it done."""

    why_unlabelled: str | None = "a checkpoint writes no answers here"

    def activations(
        self, model: RegisteredModel, champion: ReleaseRef, window: SampleRef, deployed: Deployed
    ) -> tuple[Mapping[str, ExponentHistogram], Clipping]:
        """As `Watch.activations`; the ranges are those that the checkpoint holds."""
        watched = _read_both(model.name, model.digest, champion, window.key).watched
        return watched.histograms, watched.clipping

    def answers(self, model: RegisteredModel, champion: ReleaseRef, window: SampleRef) -> Answers:
        """As `Watch.answers`: agreement, each token given the true ones."""
        compared = _read_both(model.name, model.digest, champion, window.key)
        return Answers(compared.scores.agreement)


@lru_cache(maxsize=1)
def _read_both(name: str, digest: str, champion: ReleaseRef, window: Key) -> ComparedTexts:
    index = onnx.load_from_string(loading.release_of(champion).file("graph.onnx"))
    payloads = [request.payload for request in read_requests(window)]
    return compare_payloads(open_exactly(name, digest), CarriedCheckpoint(index), payloads)
