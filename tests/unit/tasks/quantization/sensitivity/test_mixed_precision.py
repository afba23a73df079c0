"""The Pareto front of mixed precision, against trying every placement."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.quantization.sensitivity import mixed_precision as mixed
from tasks.quantization.sensitivity.mixed_precision import (
    PrecisionPlacement,
    SiteCost,
    keep,
    pareto_front,
    within,
)

COSTS = st.lists(
    st.tuples(
        st.floats(0, 1, allow_subnormal=False), st.integers(1, 8).map(lambda size: 384 * size)
    ),
    min_size=1,
    max_size=8,
).map(
    lambda found: [SiteCost(f"site{place}", loss, cost) for place, (loss, cost) in enumerate(found)]
)


def every(sites: list[SiteCost]) -> list[tuple[float, int]]:
    sets = (kept for size in range(len(sites) + 1) for kept in combinations(sites, size))
    return [
        (sum(sorted(one.loss for one in sites if one not in kept)), sum(one.cost for one in kept))
        for kept in sets
    ]


@given(COSTS)
def test_no_placement_beats_a_point_of_the_front(sites: list[SiteCost]) -> None:
    others = every(sites)
    for point in pareto_front(sites):
        assert not any(loss < point.loss - 1e-12 and cost <= point.cost for loss, cost in others)


@pytest.mark.parametrize("exact", [True, False])
@given(COSTS, st.floats(-100, 30000))
def test_what_a_room_holds_is_the_best_of_it(
    exact: bool, sites: list[SiteCost], room: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not exact:
            patch.setattr(mixed, "LARGEST", -1)
        best = within(sites, room)
    assert best.cost <= max(room, 0)
    if exact:
        able = [loss for loss, cost in every(sites) if cost <= max(room, 0)]
        assert best.loss == pytest.approx(min(able), abs=1e-12)


@given(COSTS)
def test_the_front_is_monotone_and_starts_with_everything_quantized(sites: list[SiteCost]) -> None:
    points = pareto_front(sites)
    assert points[0].kept == ()
    assert points[0].cost == 0
    for before, after in pairwise(points):
        assert after.cost > before.cost
        assert after.loss < before.loss


@given(COSTS)
def test_the_front_ends_without_loss(sites: list[SiteCost]) -> None:
    assert pareto_front(sites)[-1].loss == pytest.approx(0, abs=1e-12)


@given(COSTS)
def test_the_same_costs_give_the_same_front(sites: list[SiteCost]) -> None:
    assert pareto_front(sites) == pareto_front(list(sites))


@given(COSTS)
def test_a_points_figures_are_those_of_its_sites(sites: list[SiteCost]) -> None:
    for point in pareto_front(sites):
        assert point.cost == sum(one.cost for one in sites if one.site in point.kept)
        assert point.loss == pytest.approx(
            sum(one.loss for one in sites if one.site not in point.kept)
        )


@given(COSTS)
def test_keeping_more_sites_never_loses_more(sites: list[SiteCost]) -> None:
    points = pareto_front(sites)
    losses = [keep(points, most).loss for most in range(len(sites) + 1)]
    assert losses == sorted(losses, reverse=True)
    assert all(len(keep(points, most).kept) <= most for most in range(len(sites) + 1))


@given(COSTS)
def test_greedy_points_are_undominated_among_themselves(sites: list[SiteCost]) -> None:
    points = mixed._undominated([mixed._point(sites, kept) for kept in mixed._greedy(sites)])
    assert [point.cost for point in points] == sorted({point.cost for point in points})
    assert [point.loss for point in points] == sorted(
        {point.loss for point in points}, reverse=True
    )


def test_sites_of_one_cost_are_kept_by_their_loss() -> None:
    sites = [SiteCost("a", 0.1, 4), SiteCost("b", 0.5, 4), SiteCost("c", 0.3, 4)]
    assert keep(pareto_front(sites), 2) == PrecisionPlacement(("b", "c"), 0.1, 8)


def test_a_cheap_site_comes_before_a_dear_one_of_the_same_loss() -> None:
    sites = [SiteCost("dear", 0.4, 8), SiteCost("cheap", 0.4, 1)]
    assert keep(pareto_front(sites), 1).kept == ("cheap",)


def test_a_search_too_large_to_be_exact_is_greedy() -> None:
    sites = [SiteCost("a", 0.1, mixed.LARGEST), SiteCost("b", 0.5, mixed.LARGEST + 1)]
    assert [point.kept for point in pareto_front(sites)] == [(), ("b",), ("a", "b")]
