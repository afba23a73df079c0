"""A model's higher tier, opened as its spec says, and the rules that send requests there."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.gateway.steering.guardian import ChampionObserver, Guardian
from flows.gateway.steering.opening import REFERENCE, OpenReleases
from infra.errors import RequantError
from infra.gateway.endpoint import Endpoint
from infra.gateway.release import ServedRelease
from infra.gateway.steering.router import Router, RoutingRules, Tier, UnsureAnswers
from tasks.models.catalog import RegisteredModel
from tasks.models.inputs import run_all
from tasks.promotion import journal
from tasks.promotion.ledger import LedgerEntry, previous
from tasks.promotion.ledger import champion as champion_of
from tasks.serving.comparing import comparison
from tasks.serving.confidence import Measure, confidence, threshold
from tasks.specs.serving import RoutingSpec
from tasks.specs.traits import TRAITS

CORE = "core"
"""The tier that is another model's champion: the one without the adapter."""
CALIBRATION_CASES = 512
"""Golden cases, at most, that the threshold is chosen on at each swap."""
AGAIN_S = 5.0
"""Seconds until a core's champion that could not be opened is tried again."""
_log = logging.getLogger(__name__)


class Tiers:
    """The releases beside one endpoint's champion, and the rules that send requests there."""

    def __init__(self, endpoint: Endpoint, guardian: Guardian, releases: OpenReleases) -> None:
        self._endpoint, self._guardian, self._releases = endpoint, guardian, releases
        self._core: str | None = None  # the model whose champion stands by
        self._not_before = 0.0  # of the monotonic clock

    def open(
        self, registered: RegisteredModel, champion: ServedRelease, entries: Sequence[LedgerEntry]
    ) -> None:
        """Give a model the tiers and limits of its spec; none where it has no such section.

        Without a champion before this one, or where that cannot be opened, there is no higher tier
        `previous`, and full precision stands by: limits with nobody behind them hold nothing.
        """
        serving, steering = registered.spec.serving, self._endpoint.steering
        routing, fallback = (serving.routing, serving.fallback) if serving else (None, None)
        self._core = _core_of(registered) if fallback and fallback.to == CORE else None
        steering.router = open_router(routing, registered, champion) if routing else None
        steering.higher = self._open(routing.to, registered, entries) if routing else None
        if fallback is None:
            self._guardian.guard(None, None)
            return
        standby = self._open(fallback.to, registered, entries)
        standby = standby or self._releases.reference(registered)
        compares = fallback.fidelity is not None or fallback.flips is not None
        compared = comparison(registered.spec.task, compared_outputs(registered), registered.golden)
        steering.reference = self._open(REFERENCE, registered, entries) if compares else None
        probed = not TRAITS[registered.spec.task].per_token
        endpoint = self._endpoint
        observer = ChampionObserver(
            fallback,
            champion,
            compared if compares else None,
            probed=probed,
            tell=partial(endpoint.metrics.compared, endpoint.model, Tier.ROUTINE.value),
        )
        self._guardian.guard(observer, standby)
        self._guardian.resume(entries)

    def follow_core(self) -> None:
        """Let the core's champion of now stand by; what cannot be opened is tried again."""
        standby = self._endpoint.steering.fallback
        if self._core is None or standby is None or time.monotonic() < self._not_before:
            return
        try:
            head = champion_of(journal.read(self._core))
            if head is not None and head.release != standby.digest:
                core = self._releases.registered(self._core)
                self._guardian.stand_by(self._releases.release(core, head))
        except Exception as error:  # whatever it is, what stood by before does so on
            self._not_before = time.monotonic() + AGAIN_S
            _log.warning("%s: its core %s: %s", self._endpoint.model, self._core, error)

    def _open(
        self, name: str, registered: RegisteredModel, entries: Sequence[LedgerEntry]
    ) -> ServedRelease | None:
        if name == REFERENCE:
            return self._releases.reference(registered)
        if name == CORE:
            return self._standing_core(registered)
        before = previous(entries)
        try:
            return None if before is None else self._releases.release(registered, before)
        except RequantError as error:  # which does not keep the champion from answering
            _log.warning("%s: what served before does not stand by: %s", registered.name, error)
            return None

    def _standing_core(self, registered: RegisteredModel) -> ServedRelease:
        """Return the champion of the model that an adapter lies over.

        Until that has one, full precision stands in: limits without anybody behind them hold
        nothing.
        """
        core = _core_of(registered)
        head = champion_of(journal.read(core)) if core else None
        if not core or head is None:
            return self._releases.reference(registered)
        return self._releases.release(self._releases.registered(core), head)


def _core_of(registered: RegisteredModel) -> str | None:
    adapter = registered.spec.adapter
    return adapter.core if adapter else None


def compared_outputs(registered: RegisteredModel) -> tuple[str, ...]:
    """Return the outputs by which two releases' answers are compared."""
    return registered.spec.outputs or (registered.inputs.output,)


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
