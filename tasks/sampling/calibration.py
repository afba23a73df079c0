"""The parts of a calibration set: today's traffic, and the anchor from the calibration pool."""

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

ANCHOR_FRACTION = 0.25
"""Of the set: what a window holds is never all of it (ADR 38; ADR 20 has the bounds on scales)."""
GUARDRAIL_FRACTION = 0.5
"""Of the set, at most: a set that is mostly guardrails would no longer be what users send."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a calibration set may be chosen from."""

    live: tuple[Request, ...]  # of the window, without golden cases and near-duplicates
    pool: tuple[Request, ...]  # what the window does not hold already
    always: tuple[Request, ...]  # guardrail cases
    seen: int  # requests of window and pool
    dropped: Mapping[str, int]

    def without(self, ids: Collection[str], reason: str) -> Offer:
        """Return the same without some live requests, counted under a reason."""
        live = tuple(request for request in self.live if request.request_id not in ids)
        dropped = {**self.dropped, reason: len(self.live) - len(live)}
        return Offer(live, self.pool, self.always, self.seen, dropped)


def offer(
    window: Sample,
    pool: Sequence[Request],
    *,
    golden: Collection[GoldenCase],
    similarity: float = 1.0,
    guardrails: Collection[str] = (),
) -> Offer:
    """Return the window without golden cases ("golden") and near-duplicates ("near-duplicate").

    Args:
        window: What was drawn of live traffic.
        pool: The calibration pool.
        golden: Cases that no calibration set may hold.
        similarity: Of two texts from which they count as one; 1: never.
        guardrails: Domains of the pool whose cases are in every set.

    Raises:
        BadInput: The pool holds golden cases, which is a mistake in the shipped data, or has no
            case of a guardrail domain.
    """
    forbidden = golden_contents(golden)
    require_disjoint(pool, forbidden)
    always = guardrail_cases(pool, guardrails)
    allowed = [
        request for request in window.requests if fingerprint(request.payload) not in forbidden
    ]
    live = distinct(allowed, similarity)
    contents = {fingerprint(request.payload) for request in (*live, *always)}
    ids = {request.request_id for request in (*live, *always)}
    fresh = tuple(
        request
        for request in pool
        if fingerprint(request.payload) not in contents and request.request_id not in ids
    )
    dropped = Counter(window.dropped)
    dropped["golden"] += len(window.requests) - len(allowed)
    dropped["near-duplicate"] += len(allowed) - len(live)
    return Offer(live, fresh, always, window.seen + len(pool), dropped)


def anchors(
    offered: Offer, size: int, anchor_share: float = ANCHOR_FRACTION, seed: int = 0
) -> tuple[Request, ...]:
    """Return the pool's part of a set of `size`, guardrail cases first.

    It is the same whatever becomes of the live part.
    """
    if not 0 <= anchor_share <= 1:
        raise BadInput(f"the anchor share is {anchor_share}: it must lie between 0 and 1")
    if len(offered.always) > GUARDRAIL_FRACTION * size:
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
    anchor_share: float = ANCHOR_FRACTION,
    tenant_share: float = 0.5,
    seed: int = 0,
    order: Sequence[Request] | None = None,
) -> Sample:
    """Return at most round(anchor_share * size) requests of the pool, and the rest of the window.

    All guardrail cases are in. Neither part fills the other's places: a thin window gives a small
    set, not one of the pool alone. `order` is a choice of live requests that somebody made, best
    first; without it they are drawn.

    Raises:
        BadInput: Nothing is left.
    """
    anchored = anchors(offered, size, anchor_share, seed)
    places = size - max(round(anchor_share * size), len(offered.always))
    live = (
        _part(offered.live, places, tenant_share, seed) if order is None else tuple(order[:places])
    )
    chosen = (*live, *anchored)
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
