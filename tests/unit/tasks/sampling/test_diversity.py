"""Few that cover what many reach."""

import numpy as np

from tasks.observation.request_amax import RequestAmax, SiteValues
from tasks.sampling.diversity import cover


def candidates(count: int = 300, sites: int = 12) -> RequestAmax:
    peaks = np.random.default_rng(3).lognormal(0.0, 0.6, (count, sites))
    return RequestAmax(tuple(SiteValues(str(n)) for n in range(sites)), peaks, peaks / 4)


def test_every_range_is_reached_by_a_few_where_as_many_random_ones_fall_short() -> None:
    found = candidates()
    top = found.amax.max(axis=0)
    chosen = (found.amax[cover(found, 32)].max(axis=0) / top).mean()
    drawn = [
        (found.amax[np.random.default_rng(seed).permutation(300)[:32]].max(axis=0) / top).mean()
        for seed in range(20)
    ]
    assert chosen > 0.97
    assert max(drawn) < chosen


def test_the_choice_is_distinct_of_the_size_asked_for_and_the_same_every_time() -> None:
    found = candidates()
    rows = cover(found, 40).tolist()
    assert len(set(rows)) == 40
    assert rows == cover(found, 40).tolist()
    assert sorted(cover(found, 999).tolist()) == list(range(300))


def test_what_is_in_the_set_already_is_neither_chosen_nor_covered_twice() -> None:
    found = candidates()
    taken = np.zeros(300, bool)
    taken[cover(found, 16)] = True
    assert not taken[cover(found, 16, taken)].any()


def test_equal_and_empty_candidates_are_sound() -> None:
    same = RequestAmax((SiteValues("a"),), np.ones((9, 1)), np.ones((9, 1)))
    assert len(set(cover(same, 4).tolist())) == 4
    assert (
        len(
            set(
                cover(
                    RequestAmax((SiteValues("a"),), np.zeros((9, 1)), np.zeros((9, 1))), 4
                ).tolist()
            )
        )
        == 4
    )
    assert (
        cover(RequestAmax((SiteValues("a"),), np.zeros((0, 1)), np.zeros((0, 1))), 4).tolist() == []
    )
