"""A model's higher tier, opened as its spec says, and the rules that send requests there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.gateway.fronts import open_front
from flows.gateway.steering.guardian import ChampionObserver, Guardian
from flows.gateway.steering.opening import open_registered, open_release
from infra.gateway.endpoint import Endpoint
from infra.gateway.release import ServedRelease
from infra.gateway.steering.router import Router, RoutingRules, UnsureAnswers
from infra.gateway.wire.signature import read_signature
from infra.settings import Settings
from tasks.models.catalog import RegisteredModel
from tasks.models.inputs import run_all
from tasks.models.source_files import FULL_PRECISION
from tasks.promotion import journal
from tasks.promotion.ledger import LedgerEntry, previous
from tasks.promotion.ledger import champion as champion_of
from tasks.serving.comparing import comparison
from tasks.serving.confidence import Measure, confidence, threshold
from tasks.specs.serving import RoutingSpec
from tasks.specs.traits import TRAITS

REFERENCE = "full-precision"
"""The version that answers of the full-precision tier name."""
CORE = "core"
"""The tier that is another model's champion: the one without the adapter."""
CALIBRATION_CASES = 512
"""Golden cases, at most, that the threshold is chosen on at each swap."""


def open_tiers(
    endpoint: Endpoint,
    guardian: Guardian,
    settings: Settings,
    registered: RegisteredModel,
    champion: ServedRelease,
    entries: Sequence[LedgerEntry],
) -> None:
    """Give a model the tiers, rules and limits of its spec; none where it has no such section.

    Without a champion before this one, there is no tier `previous` yet.
    """
    serving = registered.spec.serving
    routing, fallback = (serving.routing, serving.fallback) if serving else (None, None)
    tiers = _Tiers(settings, registered, entries)
    endpoint.steering.router = open_router(routing, registered, champion) if routing else None
    endpoint.steering.higher = tiers.open(routing.to) if routing else None
    standby = tiers.open(fallback.to) if fallback else None
    if fallback is None or standby is None:
        guardian.guard(None, None)
        return
    compares = fallback.fidelity is not None or fallback.flips is not None
    compared = comparison(registered.spec.task, compared_outputs(registered), registered.golden)
    endpoint.steering.reference = tiers.open(REFERENCE) if compares else None
    probed = not TRAITS[registered.spec.task].per_token
    observer = ChampionObserver(fallback, champion, compared if compares else None, probed=probed)
    guardian.guard(observer, standby)
    guardian.resume(entries)


@dataclass(slots=True)
class _Tiers:
    """The releases beside the champion, each opened once."""

    settings: Settings
    registered: RegisteredModel
    entries: Sequence[LedgerEntry]
    opened: dict[str, ServedRelease | None] = field(default_factory=dict)

    def open(self, name: str) -> ServedRelease | None:
        if name not in self.opened:
            self.opened[name] = self._opened(name)
        return self.opened[name]

    def _opened(self, name: str) -> ServedRelease | None:
        if name == REFERENCE:
            return open_reference(self.registered)
        if name == CORE:
            return self._core()
        before = previous(self.entries)
        return None if before is None else open_release(self.settings, self.registered, before)

    def _core(self) -> ServedRelease | None:
        """Return the champion of the model that an adapter lies over.

        Until that has one, full precision stands in: limits without anybody behind them hold
        nothing.
        """
        adapter = self.registered.spec.adapter
        core = adapter and adapter.core
        head = champion_of(journal.read(core)) if core else None
        if not core or head is None:
            return self.open(REFERENCE)
        return open_release(self.settings, open_registered(core), head)


def compared_outputs(registered: RegisteredModel) -> tuple[str, ...]:
    """Return the outputs by which two releases' answers are compared."""
    return registered.spec.outputs or (registered.inputs.output,)


def open_reference(registered: RegisteredModel) -> ServedRelease:
    """Load the full-precision graph as a release of its own."""
    engine = registered.reference
    return ServedRelease(
        registered.name,
        REFERENCE,
        registered.source,
        "onnxruntime-cpu",
        engine,
        read_signature(registered.file(FULL_PRECISION)),
        open_front(registered.spec, registered.inputs, registered.layout, engine),
    )


def open_router(
    routing: RoutingSpec, registered: RegisteredModel, release: ServedRelease
) -> Router:
    """Return the rules, with the threshold of this release's own golden answers."""
    rules = RoutingRules(
        frozenset(routing.tenants), frozenset(routing.domains), routing.longer_than
    )
    if not routing.least_confident:
        return Router(rules)
    output = routing.output or registered.inputs.output
    payloads = [case.payload for case in registered.golden.cases[:CALIBRATION_CASES]]
    scores = golden_scores(registered, release, output, payloads)
    below = threshold(confidence(scores, routing.measure), routing.least_confident)
    ask = partial(_sure, output, routing.measure)
    return Router(rules, UnsureAnswers(ask, below, routing.least_confident))


def golden_scores(
    registered: RegisteredModel, release: ServedRelease, output: str, payloads: list[Any]
) -> NDArray[np.float32]:
    """Return a release's scores of golden cases, [cases, classes]."""
    if output == registered.inputs.output:
        return run_all(release.engine, registered.inputs, payloads)
    rows: dict[int, NDArray[np.float32]] = {}
    for batch in registered.inputs.batches(payloads):
        scores = release.engine.run(batch.feeds)[output]
        rows.update(zip(batch.cases.tolist(), scores, strict=True))
    return np.stack([rows[place] for place in range(len(payloads))])


def _sure(
    output: str, measure: Measure, outputs: Mapping[str, NDArray[Any]]
) -> NDArray[np.float64]:
    scores = outputs[output]
    return confidence(scores.reshape(len(scores), -1), measure)
