"""One look at what each request does to the ranges: who is set aside, how far a range may go, who covers it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from tasks.observation.ceilings import Ceilings
from tasks.observation.request_amax import RequestAmax
from tasks.records import Request
from tasks.sampling.calibration import Offer
from tasks.sampling.diversity import cover
from tasks.sampling.quarantine import Quarantined, ceilings, quarantine, stretching
from tasks.specs.spec import CalibrationSpec


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What followed from the amax of the live requests and of the anchors after them."""

    quarantined: tuple[Quarantined, ...]
    ceilings: Ceilings
    live: tuple[Request, ...]  # as they were offered
    amax: RequestAmax  # of the live ones, then of the anchors


def judge(
    offered: Offer, found: RequestAmax, weights: Mapping[str, float], rules: CalibrationSpec
) -> Judgement:
    """Quarantine and ceilings by the spec; a request without a weight stands for itself alone."""
    live = offered.live
    shares = np.asarray([weights.get(one.request_id, 1.0) for one in live])
    own, anchors = found.rows(np.arange(len(live))), found.amax[len(live) :]
    out = quarantine(live, own, shares, anchors) if rules.quarantine else ()
    outside = {one.request_id for one in out}
    left = np.asarray([one.request_id not in outside for one in live], bool)
    limits = (
        ceilings(own.rows(np.flatnonzero(left)), shares[left], anchors, rules.least_support)
        if left.any()
        else {}
    )
    if rules.quarantine and limits:
        rest = np.flatnonzero(left)
        out += stretching([live[place] for place in rest.tolist()], own.rows(rest), limits)
    return Judgement(out, limits, live, found)


def covering(
    offered: Offer, judged: Judgement, places: int, tenant_share: float
) -> tuple[Request, ...]:
    """Live requests of the offer that cover the ranges together with the anchors, best first.

    No tenant of several fills more than its share of the places.
    """
    count = len(judged.live)
    present = {one.request_id for one in offered.live}
    rows = [place for place, one in enumerate(judged.live) if one.request_id in present]
    kept = judged.amax.rows([*rows, *range(count, len(judged.amax.amax))])
    taken = np.arange(len(kept.amax)) >= len(rows)
    order = [
        judged.live[rows[place]] for place in cover(kept, len(rows), taken, covering=places // 2)
    ]
    several = len({one.tenant for one in order}) > 1
    return _capped(order, places, ceil(tenant_share * places) if several else places)


def _capped(order: Sequence[Request], places: int, cap: int) -> tuple[Request, ...]:
    tenants: Counter[str] = Counter()
    chosen: list[Request] = []
    for one in order:
        if tenants[one.tenant] < cap and len(chosen) < places:
            tenants[one.tenant] += 1
            chosen.append(one)
    return tuple(chosen)
