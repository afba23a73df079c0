"""Few requests that do what many do: they reach every range, and fill it as the many would."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.observation.request_amax import RequestAmax

REACHED = 0.98
"""Of the candidates' largest magnitude at a site: from there on the site counts as covered."""
COVERING = 0.5
"""Of the places: the most that go to covering; the rest represents the ordinary requests."""

Floats = NDArray[np.float64]


def cover(
    found: RequestAmax,
    size: int,
    taken: NDArray[np.bool_] | None = None,
    covering: int | None = None,
) -> NDArray[np.intp]:
    """At most `size` rows of the candidates, in the order chosen; the same candidates give the same choice.

    First greedy maximum coverage of the sites' largest magnitudes on a logarithmic scale, then greedy facility
    location, which brings the unlike rows near some chosen one. Both gains are submodular, so greedy is within
    1 - 1 / e of the best (Nemhauser, Wolsey and Fisher, 1978). Rows in `taken` [candidates] are in the set already;
    `covering` is the most places that go to covering, by default half.
    """
    if not len(found.amax):
        return np.zeros(0, np.intp)
    peaks = np.where(np.isfinite(found.amax), found.amax, 0.0)
    chosen = np.zeros(len(peaks), bool) if taken is None else taken.copy()
    order: list[int] = []
    places = min(size, int((~chosen).sum()))
    for row in _cover(
        peaks, chosen, round(COVERING * places) if covering is None else min(covering, places)
    ):
        chosen[row] = True
        order.append(row)
    for row in _represent(_features(found), chosen, places - len(order)):
        order.append(row)
    return np.asarray(order, np.intp)


def _cover(peaks: Floats, taken: NDArray[np.bool_], places: int) -> list[int]:
    """Rows that bring most sites nearest to the largest magnitude that any candidate reaches."""
    top = peaks.max(axis=0, initial=0.0)
    live = top > 0
    share = np.log2(1 + peaks[:, live] / top[live])  # 1 at the largest magnitude
    enough = np.log2(1 + REACHED)
    best = share[taken].max(axis=0, initial=0.0) if share.size else np.zeros(0)
    order: list[int] = []
    while len(order) < places and share.size and (best < enough).any():
        gain = np.maximum(share - best, 0.0)[:, best < enough].sum(axis=1)
        row = int(np.argmax(np.where(_still(taken, order), gain, -1.0)))
        if gain[row] <= 0:
            break
        best = np.maximum(best, share[row])
        order.append(row)
    return order


def _represent(features: Floats, taken: NDArray[np.bool_], places: int) -> list[int]:
    """Facility location on distances: each new row lowers the sum of distances to the nearest chosen one the most."""
    if places < 1:
        return []
    squared = np.square(features).sum(axis=1)
    far = np.sqrt(np.maximum(squared[:, None] + squared[None, :] - 2 * features @ features.T, 0.0))
    nearest = far[taken].min(axis=0, initial=float(far.max(initial=0.0)))
    order: list[int] = []
    while len(order) < places:
        gain = np.maximum(nearest[None, :] - far, 0.0).sum(axis=1)
        row = int(np.argmax(np.where(_still(taken, order), gain, -1.0)))
        nearest = np.minimum(nearest, far[row])
        order.append(row)
    return order


def _still(taken: NDArray[np.bool_], order: list[int]) -> NDArray[np.bool_]:
    free = ~taken
    free[order] = False
    return free


def _features(found: RequestAmax) -> Floats:
    """Peak and typical magnitude of every site, as logarithms in units of their own deviation: [n, 2 * columns]."""
    both = np.concatenate([found.amax, found.rms], axis=1)
    logs = np.log(np.clip(np.where(np.isfinite(both), both, 0.0), 1e-12, None))
    deviation = logs.std(axis=0)
    scaled: Floats = (logs - logs.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return scaled
