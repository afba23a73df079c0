"""Requests that would stretch a range alone are set aside, with the reasons; a shift that many share is left alone.

The level of a site is what all but a tenth of the *traffic* stays below; an attacker with less of it cannot move that.
A request is far outside where it reaches twice the level, or a quarter beyond the tail that the calibration pool has
above its own level: the pool is shipped with the model, so no traffic can shape it. A tenant is held against the level
of everybody else, so that no single one makes the rule it is judged by. What then remains is bounded by `ceilings`.
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
"""Share of the traffic that has to reach a magnitude before it counts as a shift."""
FAR = 2.0
TAIL = 1.25
MARGIN = 1.02
"""A ceiling lies so far above what enough of the traffic reaches."""
BODY = 0.75
POOL_TAIL = 0.98
MOST = 0.5
"""Of all columns: a request above so many ceilings is set aside, although it is far outside at none."""
FEWEST = 20
"""Requests. Fewer tell no level."""
ALONE = (0.05, 0.5)
"""Shares of the traffic between which a tenant is held against the others: a smaller one moves no level, and a larger
one is the traffic."""
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
    """The requests to set aside, in their order.

    `live` has a row a request; `weights` [requests] is the share of the traffic that each stands for; `anchors`
    [cases, columns] are the peaks of the calibration pool.
    """
    if len(requests) < FEWEST:
        return ()
    shares = weights / weights.sum()
    allowed = np.broadcast_to(limits(live.amax, shares, anchors), live.amax.shape).copy()
    alone = np.zeros(len(requests), bool)
    tenants = np.asarray([one.tenant for one in requests])
    for tenant in sorted(set(tenants)):
        own = tenants == tenant
        if _can_be_judged_by_others(own, tenants, shares):
            others = limits(live.amax[~own], shares[~own] / shares[~own].sum(), anchors)
            alone |= own & (live.amax > others).any(axis=1) & ~(live.amax > allowed).any(axis=1)
            allowed[own] = np.minimum(allowed[own], others)
    # Infinities go out only while they are the exception; otherwise the model itself is broken, which must be said.
    finite = np.isfinite(live.amax).all(axis=1)
    over = (live.amax > allowed).any(axis=1)
    if shares[~finite].sum() >= SUPPORT:
        over &= finite
    return tuple(
        _entry(requests[row], live.columns, live.amax[row], allowed[row], bool(alone[row]))
        for row in np.flatnonzero(over).tolist()
    )


def limits(peaks: Floats, shares: Floats, anchors: Floats) -> Floats:
    """The largest |x| that is not far outside, [columns]; infinite at sites that most requests never reach."""
    level = quantile(peaks, shares, 1 - SUPPORT)
    factor, reached = np.full(level.shape, FAR), np.zeros(level.shape)
    if len(anchors) >= FEWEST:
        shipped, reached = np.quantile(anchors, 1 - SUPPORT, axis=0), anchors.max(axis=0)
        tail = np.divide(reached, shipped, out=np.ones_like(shipped), where=shipped > 0)
        factor, level = np.maximum(FAR, TAIL * tail), np.where(level > 0, level, shipped)
    found: Floats = np.maximum(np.where(level > 0, level * factor, np.inf), reached)
    return found


def ceilings(live: RequestAmax, weights: Floats, anchors: Floats, least_support: float) -> Ceilings:
    """Site -> the largest |x| that its range may reach; a range that fewer requests stretch ends there.

    The largest of: what the calibration pool reaches; the live body (what `BODY` of the traffic stays below) times the
    pool's own ratio of tail to body; and what a share `least_support` of the traffic reaches, and a little more. The
    body moves little whatever a small part sends, and a shift of more than `least_support` is followed. With a share of
    0, or fewer than `FEWEST` requests, there are none.
    """
    if not least_support or len(live.amax) < FEWEST:
        return {}
    shares = weights / weights.sum()
    level = MARGIN * quantile(live.amax, shares, 1 - least_support)
    if len(anchors) >= FEWEST:
        body, tail = np.quantile(anchors, BODY, axis=0), np.quantile(anchors, POOL_TAIL, axis=0)
        ratio = np.divide(tail, body, out=np.ones_like(body), where=body > 0)
        level = np.maximum(level, quantile(live.amax, shares, BODY) * ratio)
    level = np.maximum(level, anchors.max(axis=0)) if len(anchors) else level
    peaks = live.amax.max(axis=0)
    found = zip(live.columns, level.tolist(), peaks.tolist(), strict=True)
    return {name: value for name, value, peak in found if 0 < value < peak}


def stretching(
    requests: Sequence[Request], live: RequestAmax, limits: Ceilings
) -> tuple[Quarantined, ...]:
    """Requests that lie above the ceilings of at least half of all columns: together they would reshape a histogram."""
    allowed = np.asarray([limits.get(name, np.inf) for name in live.columns])
    over = (live.amax > allowed).mean(axis=1) >= MOST
    return tuple(
        _entry(requests[row], live.columns, live.amax[row], allowed, False)
        for row in np.flatnonzero(over).tolist()
    )


def quantile(values: Floats, shares: Floats, q: float) -> Floats:
    """The least value of each column that a share `q` of the weight does not exceed: [n, columns], [n] -> [columns]."""
    order = np.argsort(values, axis=0, kind="stable")
    upto = np.cumsum(shares[order], axis=0)
    place = np.minimum((upto < q * upto[-1:] - 1e-12).sum(axis=0), len(values) - 1)
    found: Floats = np.take_along_axis(np.take_along_axis(values, order, 0), place[None, :], 0)[0]
    return found


def _can_be_judged_by_others(
    own: NDArray[np.bool_], tenants: NDArray[np.str_], shares: Floats
) -> bool:
    low, high = ALONE
    return (
        low <= shares[own].sum() < high and (~own).sum() >= FEWEST and len(set(tenants[~own])) > 1
    )


def _entry(
    request: Request, columns: Sequence[SiteValues], peak: Floats, allowed: Floats, alone: bool
) -> Quarantined:
    excess = np.flatnonzero(peak > allowed)
    if not np.isfinite(peak).all():
        excess = np.flatnonzero(~np.isfinite(peak))
    worst = excess[np.argsort(-(peak[excess] / allowed[excess]), kind="stable")]
    named = tuple(
        Excess(columns[i].stored, float(peak[i]), float(allowed[i])) for i in worst[:NAMED]
    )
    first, more = named[0], f" and {len(worst) - 1} more sites" if len(worst) > 1 else ""
    whom = "no other tenant" if alone else "hardly any other request"
    reason = (
        f"it reaches {first.reached:.3g} at {first.site}{more}, where {whom} comes near: up to "
        f"{first.allowed:.3g} "
        "is taken for a shift"
    )
    return Quarantined(request.request_id, request.tenant, reason, named)


def document(found: Sequence[Quarantined], window: str) -> Mapping[str, object]:
    """What is stored of them: ids, tenants, sites and figures, never the input itself."""
    entries = [
        {
            "request_id": one.request_id,
            "tenant": one.tenant,
            "reason": one.reason,
            "sites": [
                {"site": e.site, "reached": f"{e.reached:.6g}", "allowed": f"{e.allowed:.6g}"}
                for e in one.excesses
            ],
        }
        for one in found
    ]
    return {"version": 1, "window": window, "entries": entries}
