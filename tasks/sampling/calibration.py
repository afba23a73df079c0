"""A calibration set: today's traffic, held by an anchor of the calibration pool, and free of golden cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from infra.errors import BadInput
from tasks.models.overlap import golden_contents, require_disjoint
from tasks.payloads import fingerprint
from tasks.records import GoldenCase, Request, Sample
from tasks.sampling.digest import sample_of
from tasks.sampling.strata import draw

ANCHOR_SHARE = 0.25
"""Of the set: it bounds how far one window may move a scale (DESIGN.md, D13)."""


def compose(
    window: Sample,
    pool: Sequence[Request],
    *,
    golden: Collection[GoldenCase],
    size: int,
    anchor_share: float = ANCHOR_SHARE,
    tenant_share: float = 0.5,
    seed: int = 0,
) -> Sample:
    """At most round(anchor_share * size) requests of the pool, and the rest of `size` from the window.

    Neither part fills the other's places: a thin window gives a small set, not one of the pool alone. Golden
    cases in the window are dropped and counted ("golden"). Raises `BadInput` when the pool holds golden cases, which
    is a mistake in the shipped data, and when nothing is left.
    """
    if not 0 <= anchor_share <= 1:
        raise BadInput(f"the anchor share is {anchor_share}: it must lie between 0 and 1")
    forbidden = golden_contents(golden)
    require_disjoint(pool, forbidden)
    allowed = [request for request in window.requests if fingerprint(request.payload) not in forbidden]
    anchors = round(anchor_share * size)
    live = _part(allowed, size - anchors, tenant_share, seed)
    taken = {fingerprint(request.payload) for request in live}
    ids = {request.request_id for request in live}
    fresh = [one for one in pool if fingerprint(one.payload) not in taken and one.request_id not in ids]
    chosen = (*live, *_part(fresh, anchors, 1.0, seed))
    if not chosen:
        raise BadInput("the calibration set is empty: sample more traffic, or ship a calibration pool with the model")
    dropped = Counter(window.dropped)
    dropped["golden"] += len(window.requests) - len(allowed)
    return sample_of(chosen, seen=window.seen + len(pool), dropped=dropped)


def _part(requests: Sequence[Request], size: int, tenant_share: float, seed: int) -> tuple[Request, ...]:
    if size < 1 or not requests:
        return ()
    return draw(requests, size=size, tenant_share=tenant_share, seed=seed).requests
