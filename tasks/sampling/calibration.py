"""A calibration set: today's traffic, held by an anchor of the calibration pool, and free of golden cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from infra.errors import BadInput
from tasks.models.corpus import guardrail_cases
from tasks.models.overlap import golden_contents, require_disjoint
from tasks.payloads import fingerprint
from tasks.records import GoldenCase, Request, Sample
from tasks.sampling.digest import sample_of
from tasks.sampling.near_duplicates import distinct
from tasks.sampling.strata import draw

ANCHOR_SHARE = 0.25
"""Of the set: what a window holds is never all of it (ADR 38; ADR 20 has the bounds on scales)."""
GUARDRAIL_SHARE = 0.5
"""Of the set, at most: a set that is mostly guardrails would no longer be what users send."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a calibration set may be chosen from."""

    live: tuple[Request, ...]  # of the window, without golden cases and near-duplicates
    pool: tuple[Request, ...]  # what the window does not hold already
    always: tuple[Request, ...]  # guardrail cases
    seen: int
    dropped: Mapping[str, int]

    def without(self, ids: Collection[str], reason: str) -> Offer:
        """The same without some live requests, counted under a reason."""
        left = tuple(one for one in self.live if one.request_id not in ids)
        dropped = {**self.dropped, reason: len(self.live) - len(left)}
        return Offer(left, self.pool, self.always, self.seen, dropped)


def offer(
    window: Sample,
    pool: Sequence[Request],
    *,
    golden: Collection[GoldenCase],
    similarity: float = 1.0,
    guardrails: Collection[str] = (),
) -> Offer:
    """The window without golden cases ("golden") and what resembles others of it ("near-duplicate").

    `guardrails` are domains of the pool whose cases are in every set. Raises `BadInput` when the pool holds golden
    cases, which is a mistake in the shipped data, and when it has no case of a guardrail domain.
    """
    forbidden = golden_contents(golden)
    require_disjoint(pool, forbidden)
    always = guardrail_cases(pool, guardrails)
    allowed = [
        request for request in window.requests if fingerprint(request.payload) not in forbidden
    ]
    live = distinct(allowed, similarity)
    taken = {fingerprint(request.payload) for request in (*live, *always)}
    ids = {request.request_id for request in (*live, *always)}
    fresh = tuple(
        one for one in pool if fingerprint(one.payload) not in taken and one.request_id not in ids
    )
    dropped = Counter(window.dropped)
    dropped["golden"] += len(window.requests) - len(allowed)
    dropped["near-duplicate"] += len(allowed) - len(live)
    return Offer(live, fresh, always, window.seen + len(pool), dropped)


def anchors(
    offered: Offer, size: int, anchor_share: float = ANCHOR_SHARE, seed: int = 0
) -> tuple[Request, ...]:
    """The pool's part of a set of `size`, guardrail cases first; the same whatever becomes of the live part."""
    if not 0 <= anchor_share <= 1:
        raise BadInput(f"the anchor share is {anchor_share}: it must lie between 0 and 1")
    if len(offered.always) > GUARDRAIL_SHARE * size:
        raise BadInput(
            f"{len(offered.always)} guardrail cases do not fit into a calibration set of {size}: "
            "they may fill half; "
            "raise calibration.size, or mark fewer domains"
        )
    places = round(anchor_share * size) - len(offered.always)
    return (*offered.always, *_part(offered.pool, places, 1.0, seed))


def settle(
    offered: Offer,
    *,
    size: int,
    anchor_share: float = ANCHOR_SHARE,
    tenant_share: float = 0.5,
    seed: int = 0,
    order: Sequence[Request] | None = None,
) -> Sample:
    """At most round(anchor_share * size) requests of the pool, all guardrail cases, and the rest from the window.

    Neither part fills the other's places: a thin window gives a small set, not one of the pool alone. `order` is a
    choice of live requests that somebody made, best first; without it they are drawn. Raises `BadInput` when nothing
    is left.
    """
    held = anchors(offered, size, anchor_share, seed)
    places = size - max(round(anchor_share * size), len(offered.always))
    live = (
        _part(offered.live, places, tenant_share, seed) if order is None else tuple(order[:places])
    )
    chosen = (*live, *held)
    if not chosen:
        raise BadInput(
            "the calibration set is empty: sample more traffic, or ship a calibration pool with "
            "the model"
        )
    return sample_of(chosen, seen=offered.seen, dropped=offered.dropped)


def _part(
    requests: Sequence[Request], size: int, tenant_share: float, seed: int
) -> tuple[Request, ...]:
    if size < 1 or not requests:
        return ()
    return draw(requests, size=size, tenant_share=tenant_share, seed=seed).requests
