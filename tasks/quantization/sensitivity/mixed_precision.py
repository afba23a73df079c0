"""Which sites to leave in high precision.

The least loss for what that costs, for every budget at once.

A point quantizes all sites but those that it keeps. Its loss is taken as the sum of its sites'
losses, each measured alone, as in Dong et al., "HAWQ-V2" (2020), section 3.2: on MiniLM all sites
together lose 1.02 (plain) and 1.13 (smoothed) times that sum on English, and 1.7 times on Japanese
and Russian, where one site does most of the harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import gcd

LARGEST = 1 << 16
"""Units of cost up to which the search is exact.

Above, sites are kept in the order of loss per cost.
"""


@dataclass(frozen=True, slots=True)
class SiteCost:
    """One site's part in both sides of the bargain."""

    site: str
    loss: float  # of the model's output when this site alone is quantized; not negative
    cost: int  # that quantizing it saves: bytes of weights, or multiply-accumulates per position


@dataclass(frozen=True, slots=True)
class PrecisionPlacement:
    """One placement of high precision."""

    kept: tuple[str, ...]  # sites in high precision, in the order of the costs given
    loss: float  # sum over the quantized sites
    cost: int  # of the kept sites: what is not saved


def pareto_front(sites: Sequence[SiteCost]) -> tuple[PrecisionPlacement, ...]:
    """Return all placements than which none is better in loss and no worse in cost, cheapest first.

    The first keeps nothing. Exact (0/1 knapsack by dynamic programming over the costs in units of
    their greatest common divisor; Kellerer, Pferschy and Pisinger, "Knapsack Problems", 2004,
    section 2.3) up to LARGEST units; beyond, greedy by loss per cost.
    """
    unit = gcd(*(site.cost for site in sites)) or 1
    total = sum(site.cost for site in sites) // unit
    choices = _exact(sites, unit, total) if total <= LARGEST else _greedy(sites)
    return _undominated([_point(sites, chosen) for chosen in choices])


def keep(points: Sequence[PrecisionPlacement], most: int) -> PrecisionPlacement:
    """Return the point of least loss that keeps at most so many sites.

    Of equal ones the cheapest.
    """
    return min(
        (point for point in points if len(point.kept) <= most),
        key=lambda point: (point.loss, point.cost),
    )


def within(sites: Sequence[SiteCost], room: float) -> PrecisionPlacement:
    """Return the point of least loss whose kept sites cost no more than `room`.

    As a budget of `pareto_front`, whose others are not searched.
    """
    unit = gcd(*(site.cost for site in sites)) or 1
    most = int(min(max(room, 0), sum(site.cost for site in sites)) // unit)
    if most <= LARGEST:
        return _point(sites, _exact(sites, unit, most)[-1])
    points = [_point(sites, chosen) for chosen in _greedy(sites)]
    able = (point for point in points if point.cost <= max(room, 0))
    return max(able, key=lambda point: point.cost)


def _exact(sites: Sequence[SiteCost], unit: int, total: int) -> list[frozenset[int]]:
    """Return for every budget the kept set that saves the most loss, equal ones once."""
    saved = [0.0] * (total + 1)
    chosen = [0] * (total + 1)  # a bit a site: sets of each budget would be much of the memory
    for place, site in enumerate(sites):
        size = site.cost // unit
        for budget in range(total, size - 1, -1):
            with_it = saved[budget - size] + site.loss
            if with_it > saved[budget]:
                saved[budget], chosen[budget] = with_it, chosen[budget - size] | 1 << place
    return [
        frozenset(place for place in range(len(sites)) if mask >> place & 1)
        for mask in dict.fromkeys(chosen)
    ]


def _greedy(sites: Sequence[SiteCost]) -> list[frozenset[int]]:
    order = sorted(
        range(len(sites)), key=lambda place: (-sites[place].loss / max(sites[place].cost, 1), place)
    )
    return list(accumulate(order, lambda before, place: before | {place}, initial=frozenset[int]()))


def _point(sites: Sequence[SiteCost], kept: frozenset[int]) -> PrecisionPlacement:
    rest = [site.loss for place, site in enumerate(sites) if place not in kept]
    names = tuple(sites[place].site for place in sorted(kept))
    return PrecisionPlacement(names, sum(sorted(rest)), sum(sites[place].cost for place in kept))


def _undominated(points: Sequence[PrecisionPlacement]) -> tuple[PrecisionPlacement, ...]:
    best: list[PrecisionPlacement] = []
    for point in sorted(points, key=lambda point: (point.cost, point.loss, point.kept)):
        if not best or point.loss < best[-1].loss:
            best.append(point)
    return tuple(best)
