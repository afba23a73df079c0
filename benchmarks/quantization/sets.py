"""Calibration sets as a run composes them, from requests in memory; and the graphs that follow from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.ours import Candidate
from benchmarks.harness.subject import EXAMPLES, Subject
from infra.engines import open_target
from infra.engines.port import Engine
from tasks.graphs.sites import expose
from tasks.models.corpus import read_corpus
from tasks.observation.bounded import bounded
from tasks.observation.observer import SiteObservation
from tasks.observation.request_amax import watch_amax
from tasks.observation.requests import SeenByRequest, watch_requests
from tasks.observation.watch import watch
from tasks.quantization.derive import derive
from tasks.quantization.graph import qdq
from tasks.quantization.recipe.catalog import find_recipe
from tasks.records import Request, Sample
from tasks.sampling.calibration import anchors, offer, settle
from tasks.sampling.judgement import covering, judge
from tasks.sampling.strata import draw
from tasks.specs.spec import CalibrationSpec

OFF = CalibrationSpec(near_duplicates=1.0, quarantine=False, least_support=0.0)
"""What a calibration set was before: strata, tenant cap and anchor."""
TENANT_SHARE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """One calibration set, who was kept out of it, how far its ranges may go, and what every site saw of it."""

    sample: Sample
    quarantined: frozenset[str]
    ceilings: dict[str, float]
    observed: Mapping[str, SiteObservation]
    seen: Mapping[str, SeenByRequest]  # by the champion's quantizers


def instrumented(subject: Subject) -> Engine:
    """The full-precision graph with every site's activations."""
    return open_target("onnxruntime-cpu").load(
        expose(subject.model, subject.sites).SerializeToString()
    )


def pool_of(subject: Subject) -> tuple[Request, ...]:
    """The shipped calibration pool."""
    path = EXAMPLES / subject.name / "calibration.parquet"
    return read_corpus(path.read_bytes(), where=str(path))


def composed(
    subject: Subject,
    engine: Engine,
    traffic: Sequence[Request],
    size: int,
    rules: CalibrationSpec,
    champion: Candidate | None = None,
) -> Composed:
    """A window's sample, judged and composed by the rules, as `compose-calibration-set` does it."""
    window = draw(traffic, size=size, tenant_share=TENANT_SHARE)
    offered = offer(window, pool_of(subject), golden=(), similarity=rules.near_duplicates)
    places = rules.size or size
    held = anchors(offered, places, rules.anchor_share)
    scales = champion.derived.scales if champion else {}
    factors = {
        name: item.smoothing_scales
        for name, item in scales.items()
        if item.smoothing_scales is not None
    }
    payloads = [one.payload for one in (*offered.live, *held)]
    judged = judge(
        offered,
        watch_amax(engine, subject.sites, subject.inputs, payloads, factors),
        window.weights,
        rules,
    )
    outside = frozenset(one.request_id for one in judged.quarantined)
    left = offered.without(outside, "quarantined")
    order = (
        covering(left, judged, places - len(held), TENANT_SHARE)
        if rules.selection == "cover"
        else None
    )
    sample = settle(
        left, size=places, anchor_share=rules.anchor_share, tenant_share=TENANT_SHARE, order=order
    )
    observed = watch(
        engine, subject.sites, subject.inputs, [one.payload for one in sample.requests]
    )
    usual = float(np.mean(list(window.weights.values())))
    limits = judged.ceilings
    seen = watch_requests(
        engine,
        tuple(site for site in subject.sites if site.name in scales),
        subject.inputs,
        [one.payload for one in sample.requests],
        factors,
        weights=np.array([window.weights.get(one.request_id) or usual for one in sample.requests]),
        ceilings={
            name: limits.get(f"{name} / factors" if name in factors else name, math.inf)
            for name in scales
        },
        support=rules.least_support,
    )
    return Composed(sample, outside, limits, bounded(observed, limits), seen)


def recalibrated(
    subject: Subject, found: Composed, recipe: str, champion: Candidate, rules: CalibrationSpec
) -> Candidate:
    """The champion's graph with scales from a calibration set."""
    derived = derive(
        subject.model,
        subject.sites,
        found.observed,
        find_recipe(recipe),
        champion.derived.scales,
        largest_change=rules.largest_scale_change if rules.quarantine else None,
        ceilings=found.ceilings,
        seen=found.seen,
    )
    return Candidate(
        qdq.rescale(champion.graph, subject.sites, derived.scales), derived, champion.clock
    )


def largest_move(before: Candidate, after: Candidate) -> tuple[str, float]:
    """The site whose amax differs the most between two candidates, and by what share."""
    old, new = before.derived.scales, after.derived.scales
    moves = {name: abs(new[name].amax / old[name].amax - 1) for name in old if name in new}
    worst = max(moves, key=lambda name: moves[name])
    return worst, float(np.float64(moves[worst]))
