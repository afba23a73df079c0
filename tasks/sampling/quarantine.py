"""Requests that alone would stretch a range are set aside, with the reasons.

A shift that many requests have in common is left alone. The level of a site is what all but a tenth
of the *traffic* stays below; an attacker with less of it cannot move that. A request is far outside
at twice the level, or a quarter beyond the tail that the calibration pool has above its own level.
The pool is shipped with the model, so no traffic can shape it. A tenant is held against the level
of everybody else, so that no single one makes the rule it is judged by. What then remains is
bounded by `ceilings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.observation.ceilings import Ceilings
from tasks.observation.request_amax import RequestAmax, SiteValues
from tasks.records import Request

SUPPORT = 0.1
"""Fraction of the traffic that has to reach a magnitude before it counts as a shift."""
FAR = 2.0
TAIL = 1.25
MARGIN = 1.02
"""A ceiling lies so far above what enough of the traffic reaches."""
BODY = 0.75
POOL_TAIL = 0.98
MOST = 0.5
"""Of all columns: a request above so many ceilings is set aside, though far outside at none."""
FEWEST = 20
"""Requests. Fewer tell no level."""
ALONE = (0.05, 0.5)
"""Fractions of the traffic between which a tenant is held against the others.

A smaller one moves no level, and a larger one is the traffic.
"""
NAMED = 3
"""Sites that a quarantine entry names."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Excess:
    """Where one request went too far."""

    site: str
    reached: float  # largest |x| of the request; infinite for infinities and NaN
    allowed: float


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One request that was set aside."""

    request_id: str
    tenant: str
    reason: str  # one sentence with the figures
    excesses: tuple[Excess, ...]  # the worst first


def quarantine(
    requests: Sequence[Request], live: RequestAmax, weights: Floats, anchors: Floats
) -> tuple[Quarantined, ...]:
    """Return the requests to set aside, in their order.

    Args:
        requests: Of the window.
        live: A row a request.
        weights: How much of the traffic each stands for, [requests].
        anchors: Amax of the calibration pool, [cases, columns].
    """
    if len(requests) < FEWEST:
        return ()
    fractions = weights / weights.sum()
    allowed = np.broadcast_to(limits(live.amax, fractions, anchors), live.amax.shape).copy()
    alone = np.zeros(len(requests), bool)
    tenants = np.asarray([request.tenant for request in requests])
    for tenant in sorted(set(tenants)):
        own = tenants == tenant
        if _can_be_judged_by_others(own, tenants, fractions):
            others = limits(live.amax[~own], fractions[~own] / fractions[~own].sum(), anchors)
            alone |= own & (live.amax > others).any(axis=1) & ~(live.amax > allowed).any(axis=1)
            allowed[own] = np.minimum(allowed[own], others)
    # Infinities go out only while they are the exception; otherwise the model itself is broken,
    # which must be said.
    finite = np.isfinite(live.amax).all(axis=1)
    over = (live.amax > allowed).any(axis=1)
    if fractions[~finite].sum() >= SUPPORT:
        over &= finite
    return tuple(
        _entry(requests[row], live.columns, live.amax[row], allowed[row], bool(alone[row]))
        for row in np.flatnonzero(over).tolist()
    )


def limits(amax: Floats, fractions: Floats, anchors: Floats) -> Floats:
    """Return the largest |x| that is not far outside, [columns].

    Infinite at sites that most requests never reach.
    """
    level = quantile(amax, fractions, 1 - SUPPORT)
    factor, reached = np.full(level.shape, FAR), np.zeros(level.shape)
    if len(anchors) >= FEWEST:
        shipped, reached = np.quantile(anchors, 1 - SUPPORT, axis=0), anchors.max(axis=0)
        tail = np.divide(reached, shipped, out=np.ones_like(shipped), where=shipped > 0)
        factor, level = np.maximum(FAR, TAIL * tail), np.where(level > 0, level, shipped)
    far: Floats = np.maximum(np.where(level > 0, level * factor, np.inf), reached)
    return far


def ceilings(live: RequestAmax, weights: Floats, anchors: Floats, least_support: float) -> Ceilings:
    """Return the largest |x| that each range may have; one that fewer requests stretch ends there.

    It is the largest of three. What the calibration pool has. The live body (what `BODY` of the
    traffic stays below) times the pool's own ratio of tail to body. And what a fraction
    `least_support` of the traffic has, and a little more. The body moves little whatever a small
    part sends, and a shift of more than `least_support` is followed. With a support of 0, or fewer
    than `FEWEST` requests, there are none.
    """
    if not least_support or len(live.amax) < FEWEST:
        return {}
    fractions = weights / weights.sum()
    level = MARGIN * quantile(live.amax, fractions, 1 - least_support)
    if len(anchors) >= FEWEST:
        body, tail = np.quantile(anchors, BODY, axis=0), np.quantile(anchors, POOL_TAIL, axis=0)
        ratio = np.divide(tail, body, out=np.ones_like(body), where=body > 0)
        level = np.maximum(level, quantile(live.amax, fractions, BODY) * ratio)
    level = np.maximum(level, anchors.max(axis=0)) if len(anchors) else level
    columns = zip(live.columns, level.tolist(), live.amax.max(axis=0).tolist(), strict=True)
    return {column: ceiling for column, ceiling, amax in columns if 0 < ceiling < amax}


def stretching(
    requests: Sequence[Request], live: RequestAmax, limits: Ceilings
) -> tuple[Quarantined, ...]:
    """Return requests above the ceilings of at least half of all columns.

    Together they would reshape a histogram.
    """
    allowed = np.asarray([limits.get(name, np.inf) for name in live.columns])
    over = (live.amax > allowed).mean(axis=1) >= MOST
    return tuple(
        _entry(requests[row], live.columns, live.amax[row], allowed, False)
        for row in np.flatnonzero(over).tolist()
    )


def quantile(values: Floats, fractions: Floats, q: float) -> Floats:
    """Return the least value of each column that a fraction `q` of the weight does not exceed.

    Values are [n, columns], fractions of the weight [n]; the result is [columns].
    """
    order = np.argsort(values, axis=0, kind="stable")
    upto = np.cumsum(fractions[order], axis=0)
    place = np.minimum((upto < q * upto[-1:] - 1e-12).sum(axis=0), len(values) - 1)
    ordered = np.take_along_axis(values, order, 0)
    least: Floats = np.take_along_axis(ordered, place[None, :], 0)[0]
    return least


def _can_be_judged_by_others(
    own: NDArray[np.bool_], tenants: NDArray[np.str_], fractions: Floats
) -> bool:
    low, high = ALONE
    return (
        low <= fractions[own].sum() < high
        and (~own).sum() >= FEWEST
        and len(set(tenants[~own])) > 1
    )


def _entry(
    request: Request, columns: Sequence[SiteValues], amax: Floats, allowed: Floats, alone: bool
) -> Quarantined:
    excess = np.flatnonzero(amax > allowed)
    if not np.isfinite(amax).all():
        excess = np.flatnonzero(~np.isfinite(amax))
    worst = excess[np.argsort(-(amax[excess] / allowed[excess]), kind="stable")]
    named = tuple(
        Excess(columns[i].stored, float(amax[i]), float(allowed[i])) for i in worst[:NAMED]
    )
    first, more = named[0], f" and {len(worst) - 1} more sites" if len(worst) > 1 else ""
    whom = "no other tenant" if alone else "hardly any other request"
    reason = (
        f"it reaches {first.reached:.3g} at {first.site}{more}, where {whom} comes near: up to "
        f"{first.allowed:.3g} "
        "is taken for a shift"
    )
    return Quarantined(request.request_id, request.tenant, reason, named)


def document(quarantined: Sequence[Quarantined], window: str) -> Mapping[str, object]:
    """Return what is stored of them: ids, tenants, sites and figures, never the input itself."""
    entries = [
        {
            "request_id": out.request_id,
            "tenant": out.tenant,
            "reason": out.reason,
            "sites": [
                {"site": e.site, "reached": f"{e.reached:.6g}", "allowed": f"{e.allowed:.6g}"}
                for e in out.excesses
            ],
        }
        for out in quarantined
    ]
    return {"version": 1, "window": window, "entries": entries}
