"""What one look at each request's amax decides.

Who is set aside, how far a range may go, and who covers it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from infra.identifiers import RequestId
from tasks.observation.ceilings import Ceilings
from tasks.observation.request_amax import RequestAmax
from tasks.records import Request
from tasks.sampling.calibration import Offer
from tasks.sampling.diversity import cover
from tasks.sampling.quarantine import Quarantined, ceilings, quarantine, stretching
from tasks.sampling.strata import LEAST_PER_STRATUM, Stratum, stratum_of
from tasks.specs.drift import CalibrationSpec


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What followed from the amax of the live requests and of the anchors after them."""

    quarantined: tuple[Quarantined, ...]
    ceilings: Ceilings
    live: tuple[Request, ...]  # as they were offered
    amax: RequestAmax  # of the live ones, then of the anchors


def judge(
    offered: Offer, amax: RequestAmax, weights: Mapping[RequestId, float], rules: CalibrationSpec
) -> Judgement:
    """Judge quarantine and ceilings by the rules.

    A request without a weight stands for itself alone.
    """
    live = offered.live
    weighing = np.asarray([weights.get(request.request_id, 1.0) for request in live])
    own, anchors = amax.rows(np.arange(len(live))), amax.amax[len(live) :]
    out = quarantine(live, own, weighing, anchors) if rules.quarantine else ()
    outside = {entry.request_id for entry in out}
    inside = np.flatnonzero([request.request_id not in outside for request in live])
    if not inside.size:
        return Judgement(out, {}, live, amax)
    rest = own.rows(inside)
    limits = ceilings(rest, weighing[inside], anchors, rules.least_support)
    if rules.quarantine and limits:
        out += stretching([live[place] for place in inside.tolist()], rest, limits)
    return Judgement(out, limits, live, amax)


def covering(
    offered: Offer, judged: Judgement, places: int, tenant_share: float
) -> tuple[Request, ...]:
    """Return live requests that cover the ranges together with the anchors, best first.

    No tenant of several fills more than its part of the places, and each domain and language has
    the floor that it has where requests are drawn.
    """
    count = len(judged.live)
    present = {request.request_id for request in offered.live}
    rows = [place for place, request in enumerate(judged.live) if request.request_id in present]
    candidates = judged.amax.rows([*rows, *range(count, len(judged.amax.amax))])
    taken = np.arange(len(candidates.amax)) >= len(rows)
    order = [
        judged.live[rows[place]]
        for place in cover(candidates, len(rows), taken, covering=places // 2)
    ]
    order = _floors_first(order, places)
    several = len({request.tenant for request in order}) > 1
    return _capped(order, places, ceil(tenant_share * places) if several else places)


def _floors_first(order: Sequence[Request], places: int) -> list[Request]:
    """Move the best of every stratum to the front, as many as its floor has places."""
    strata = [stratum_of(request) for request in order]
    floor = min(LEAST_PER_STRATUM, places // max(1, len(set(strata))))
    counts: Counter[Stratum] = Counter()
    first: list[Request] = []
    later: list[Request] = []
    for request, stratum in zip(order, strata, strict=True):
        (first if counts[stratum] < floor else later).append(request)
        counts[stratum] += 1
    return [*first, *later]


def _capped(order: Sequence[Request], places: int, cap: int) -> tuple[Request, ...]:
    tenants: Counter[str] = Counter()
    chosen: list[Request] = []
    for request in order:
        if tenants[request.tenant] < cap and len(chosen) < places:
            tenants[request.tenant] += 1
            chosen.append(request)
    return tuple(chosen)
