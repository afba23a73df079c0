"""The sample of a window: proportional, with a floor for the rare and a cap for the loud."""

import pickle
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import BadInput
from tasks.payloads import fingerprint
from tasks.records import Request, Sample
from tasks.sampling.strata import STRATA, allocate, choose, draw, gather

START = datetime(2026, 3, 1, tzinfo=UTC)


def request(
    number: int, text: str | None = None, tenant: str = "acme", language: str = "en"
) -> Request:
    time = START + timedelta(seconds=number)
    return Request(
        f"r{number}", time, tenant, "docs", language, text if text is not None else f"text {number}"
    )


def languages(sample: Sample) -> Counter[str]:
    return Counter(one.language for one in sample.requests)


def tenants(sample: Sample) -> Counter[str]:
    return Counter(one.tenant for one in sample.requests)


def test_a_small_window_is_taken_whole_in_order_of_time() -> None:
    requests = [request(i) for i in range(10)]
    sample = draw(reversed(requests), size=64, tenant_share=0.5)
    assert sample.requests == tuple(requests)
    assert (sample.seen, sample.dropped) == (10, {})


@pytest.mark.parametrize("late_first", [True, False])
def test_a_request_that_came_again_with_its_label_is_taken_with_it(late_first: bool) -> None:
    early = [request(i) for i in range(50)]
    late = [replace(one, label="3", decision="allowed") for one in early]
    sample = draw([*late, *early] if late_first else [*early, *late], size=64, tenant_share=1.0)
    assert sample.requests == tuple(late)


def test_common_strata_are_proportional_and_rare_ones_have_a_floor() -> None:
    requests = [
        request(i, language="en" if i % 100 < 80 else "de" if i % 100 < 99 else "ja")
        for i in range(1000)
    ]
    found = languages(draw(requests, size=100, tenant_share=1.0, minimum_per_stratum=8))
    assert found["ja"] == 8
    assert found["en"] / found["de"] == pytest.approx(80 / 19, rel=0.1)
    assert found.total() == 100


def test_no_tenant_gets_more_than_its_share() -> None:
    requests = [request(i, tenant="loud" if i % 20 else f"t{i % 7}") for i in range(2000)]
    sample = draw(requests, size=100, tenant_share=0.3)
    assert tenants(sample)["loud"] == 30
    assert len(sample.requests) == 100
    assert sample.dropped["tenant-cap"] > 0


def test_the_loud_tenant_cannot_crowd_out_a_quiet_one() -> None:
    requests = [request(i, tenant="loud") for i in range(5000)] + [
        request(9000 + i, tenant="quiet") for i in range(5)
    ]
    assert tenants(draw(requests, size=64, tenant_share=0.5)) == {"loud": 32, "quiet": 5}


def test_a_lone_tenant_may_fill_the_sample() -> None:
    assert len(draw([request(i) for i in range(500)], size=64, tenant_share=0.25).requests) == 64


def test_equal_inputs_and_late_duplicates_are_counted_and_taken_once() -> None:
    same = [request(i, text="hello") for i in range(5)]
    sample = draw([*same, request(9), request(9)], size=64, tenant_share=1.0)
    assert [one.request_id for one in sample.requests] == ["r0", "r9"]
    assert sample.dropped == {"duplicate": 5}
    assert sample.seen == 7


def test_equal_inputs_of_two_tenants_are_taken_once() -> None:
    sample = draw([request(1, "hi", "a"), request(2, "hi", "b")], size=8, tenant_share=1.0)
    assert len(sample.requests) == 1


def test_one_id_with_two_inputs_is_taken_once() -> None:
    sample = draw([request(1, "first"), request(1, "second")], size=8, tenant_share=1.0)
    assert len(sample.requests) == 1
    assert sample.dropped == {"duplicate": 1}


def test_nothing_gives_an_empty_sample() -> None:
    assert draw([], size=8, tenant_share=1.0).requests == ()


REQUESTS = st.lists(
    st.builds(
        request,
        st.integers(0, 200),
        st.sampled_from([None, "hi", "ho"]),
        st.sampled_from("abc"),
        st.sampled_from(["en", "ja"]),
    ),
    max_size=80,
    unique_by=lambda one: one.request_id,
)


@given(
    REQUESTS,
    st.integers(1, 20),
    st.sampled_from([0.2, 0.5, 1.0]),
    st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_order_and_redelivery_do_not_change_the_sample(
    requests: list[Request], size: int, share: float, generator: random.Random
) -> None:
    sample = draw(requests, size=size, tenant_share=share)
    again = requests + requests[::3]
    generator.shuffle(again)
    assert draw(again, size=size, tenant_share=share).digest == sample.digest


@given(REQUESTS, st.integers(1, 20), st.sampled_from([0.2, 0.5, 1.0]))
@settings(deadline=None)
def test_size_cap_and_distinctness_always_hold(
    requests: list[Request], size: int, share: float
) -> None:
    sample = draw(requests, size=size, tenant_share=share)
    assert len(sample.requests) <= size
    assert len({fingerprint(one.payload) for one in sample.requests}) == len(sample.requests)
    if len({one.tenant for one in requests}) > 1:
        assert max(tenants(sample).values(), default=0) <= np.ceil(share * size)


def test_another_seed_draws_others() -> None:
    requests = [request(i) for i in range(500)]
    digests = {draw(requests, size=32, tenant_share=1.0, seed=seed).digest for seed in range(3)}
    assert len(digests) == 3


def test_memory_does_not_grow_with_the_traffic() -> None:
    alive = 0
    most = 0

    class Tracked(str):
        __slots__ = ()

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def stream() -> Iterator[Request]:
        nonlocal alive, most
        for i in range(20_000):
            alive += 1
            most = max(most, alive)
            yield request(i, Tracked(f"text {i}"))

    draw(stream(), size=32, tenant_share=1.0)
    assert most <= 4 * 32 + 10


def test_invented_strata_are_pooled() -> None:
    sample = draw((request(i, language=f"x{i}") for i in range(2000)), size=32, tenant_share=1.0)
    assert len(sample.requests) == 32


@pytest.mark.parametrize("languages", [3, STRATA + 40])
def test_shares_in_any_order_and_grouping_give_the_sample_of_one_pass(languages: int) -> None:
    """Draw from more languages than STRATA as well.

    Which of them are pooled must not depend on who came first.
    """
    rng = random.Random(5)
    requests = [
        request(
            i,
            text=f"text {i % 1700}",
            tenant=f"t{rng.randrange(4)}",
            language=f"x{rng.randrange(languages)}",
        )
        for i in range(3000)
    ]
    expected = draw(requests, size=48, tenant_share=0.4)
    for _ in range(3):
        rng.shuffle(requests)
        cuts = sorted(rng.sample(range(len(requests)), 6))
        pools = [
            gather(requests[start:end], size=48, tenant_share=0.4)
            for start, end in zip([0, *cuts], [*cuts, len(requests)], strict=True)
        ]
        while len(pools) > 1:
            rng.shuffle(pools)
            pools[0].merge(pools.pop())
        assert choose(pools[0]) == expected


def test_a_pool_that_travelled_is_the_same() -> None:
    pool = gather([request(i) for i in range(500)], size=16, tenant_share=0.5)
    assert choose(pickle.loads(pickle.dumps(pool))) == choose(pool)


def test_pools_of_another_size_are_not_merged() -> None:
    pool = gather([request(1)], size=16, tenant_share=0.5)
    with pytest.raises(BadInput, match="cannot be merged"):
        pool.merge(gather([request(2)], size=8, tenant_share=0.5))


@pytest.mark.parametrize(("size", "share"), [(0, 0.5), (8, 0.0), (8, 1.5)])
def test_a_senseless_size_or_share_is_refused(size: int, share: float) -> None:
    with pytest.raises(BadInput, match="cannot be drawn"):
        draw([], size=size, tenant_share=share)


COUNTS = st.dictionaries(
    st.tuples(st.text(max_size=2), st.just("en")), st.integers(1, 1000), min_size=1, max_size=12
)


@given(COUNTS, st.integers(1, 300), st.integers(0, 20))
def test_places_add_up_and_nobody_gets_more_than_there_is(
    counts: dict[tuple[str, str], int], size: int, minimum: int
) -> None:
    places = allocate(counts, size, minimum)
    assert places.keys() == counts.keys()
    assert sum(places.values()) == min(size, sum(counts.values()))
    assert all(0 <= places[key] <= counts[key] for key in counts)
    if minimum * len(counts) <= size:
        assert all(places[key] >= min(minimum, counts[key]) for key in counts)


def test_the_documented_allocation() -> None:
    counts = {("a", "en"): 900, ("b", "en"): 98, ("c", "en"): 2}
    assert allocate(counts, 100, 8) == {("a", "en"): 88, ("b", "en"): 10, ("c", "en"): 2}


def texts(count: int, length: int, start: int, tenant: str = "acme") -> list[Request]:
    return [request(start + i, f"{start + i} ".ljust(length, "x"), tenant) for i in range(count)]


def test_rare_lengths_and_rare_tenants_are_present() -> None:
    sample = draw(
        [*texts(990, 20, 0), *texts(6, 900, 2000), *texts(4, 20, 3000, "tiny")],
        size=64,
        tenant_share=1.0,
    )
    assert max(len(str(one.payload)) for one in sample.requests) == 900
    assert tenants(sample)["tiny"] >= 1


def test_whoever_invents_tenants_gets_no_more_places_than_its_traffic() -> None:
    honest = [request(i, tenant=f"t{i % 8}") for i in range(950)]
    invented = [request(5000 + i, tenant=f"a{i:03}") for i in range(50)]
    sample = draw([*honest, *invented], size=128, tenant_share=0.5)
    assert sum(one.tenant.startswith("a") for one in sample.requests) <= 12


def test_a_thousand_tenants_of_one_request_are_drawn_by_chance_and_not_by_name() -> None:
    sample = draw([request(i, tenant=f"t{i:04}") for i in range(1000)], size=64, tenant_share=0.5)
    assert np.mean([int(one.tenant[1:]) for one in sample.requests]) == pytest.approx(500, abs=120)


def test_weights_say_how_much_of_the_traffic_a_request_stands_for() -> None:
    requests = [request(i, language="en" if i < 980 else "ja") for i in range(1000)]
    sample = draw(requests, size=64, tenant_share=1.0)
    by_language = Counter[str]()
    for one in sample.requests:
        by_language[one.language] += round(1000 * sample.weights[one.request_id])
    assert by_language["en"] / by_language.total() == pytest.approx(0.98, abs=0.005)


def test_identical_texts_and_one_tenant_only_make_a_sound_sample() -> None:
    assert (
        len(draw([request(i, "same") for i in range(100)], size=64, tenant_share=0.5).requests) == 1
    )
