"""Few requests that do what many do: they cover every range, and fill it as the many would."""

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
    candidates: RequestAmax,
    size: int,
    taken: NDArray[np.bool_] | None = None,
    covering: int | None = None,
) -> NDArray[np.intp]:
    """Choose at most `size` rows of the candidates, in the order chosen.

    First comes greedy maximum coverage of the sites' amax on a logarithmic scale. Then comes greedy
    facility location, which brings the unlike rows near some chosen one. Both gains are submodular,
    so that greedy is within 1 - 1 / e of the best (Nemhauser, Wolsey and Fisher, 1978). The same
    candidates give the same choice.

    Args:
        candidates: A row a request.
        size: Rows to choose.
        taken: Rows that are in the set already, [candidates].
        covering: The most places that go to covering; by default half.
    """
    if not len(candidates.amax):
        return np.zeros(0, np.intp)
    peaks = np.where(np.isfinite(candidates.amax), candidates.amax, 0.0)
    chosen = np.zeros(len(peaks), bool) if taken is None else taken.copy()
    order: list[int] = []
    places = min(size, int((~chosen).sum()))
    for row in _cover_ranges(
        peaks, chosen, round(COVERING * places) if covering is None else min(covering, places)
    ):
        chosen[row] = True
        order.append(row)
    for row in _represent(_features(candidates), chosen, places - len(order)):
        order.append(row)
    return np.asarray(order, np.intp)


def _cover_ranges(peaks: Floats, taken: NDArray[np.bool_], places: int) -> list[int]:
    """Return rows that bring most sites nearest to the largest amax of any candidate."""
    top = peaks.max(axis=0, initial=0.0)
    live = top > 0
    covered = np.log2(1 + peaks[:, live] / top[live])  # 1 at the largest magnitude
    enough = np.log2(1 + REACHED)
    best = covered[taken].max(axis=0, initial=0.0) if covered.size else np.zeros(0)
    order: list[int] = []
    while len(order) < places and covered.size and (best < enough).any():
        gain = np.maximum(covered - best, 0.0)[:, best < enough].sum(axis=1)
        row = int(np.argmax(np.where(_still(taken, order), gain, -1.0)))
        if gain[row] <= 0:
            break
        best = np.maximum(best, covered[row])
        order.append(row)
    return order


def _represent(features: Floats, taken: NDArray[np.bool_], places: int) -> list[int]:
    """Choose rows by facility location on distances.

    Each new row lowers the sum of distances to the nearest chosen one the most.
    """
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


def _features(candidates: RequestAmax) -> Floats:
    """Return amax and root mean square of every site, as logarithms: [n, 2 * columns].

    They are in units of their own deviation.
    """
    both = np.concatenate([candidates.amax, candidates.rms], axis=1)
    logs = np.log(np.clip(np.where(np.isfinite(both), both, 0.0), 1e-12, None))
    deviation = logs.std(axis=0)
    scaled: Floats = (logs - logs.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return scaled
