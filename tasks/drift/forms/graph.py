"""A window held against a champion that is a graph: its engine runs beside full precision's."""

from __future__ import annotations

from collections.abc import Mapping

from infra.engines.released import load_released
from tasks.drift import loading, measure
from tasks.drift.look import Deployed
from tasks.drift.measure import Answers
from tasks.models.catalog import RegisteredModel
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.clipped_fraction import Clipping
from tasks.records import Payload, ReleaseRef, SampleRef
from tasks.traffic.storage.samples import read_requests


class GraphWatch:
    """Runs the instrumented graph for ranges, and both engines for answers."""

    why_unlabelled: str | None = None

    def activations(
        self, model: RegisteredModel, champion: ReleaseRef, window: SampleRef, deployed: Deployed
    ) -> tuple[Mapping[str, ExponentHistogram], Clipping]:
        """As `Watch.activations`."""
        return measure.activations(
            model.instrumented,
            model.sites,
            model.inputs,
            _payloads(window),
            deployed.scales,
            cases=model.observed_cases,
        )

    def answers(self, model: RegisteredModel, champion: ReleaseRef, window: SampleRef) -> Answers:
        """As `Watch.answers`."""
        engine = load_released(loading.release_of(champion), model.spec.targets)
        return measure.answers(model.spec, model.reference, engine, model.inputs, _payloads(window))


def _payloads(window: SampleRef) -> list[Payload]:
    return [request.payload for request in read_requests(window.key)]
