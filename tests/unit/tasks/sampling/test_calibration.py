"""A calibration set: the window, its anchor, and never a golden case."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from infra.errors import BadInput
from tasks.records import GoldenCase, Request, Sample
from tasks.sampling.calibration import offer, settle
from tasks.sampling.digest import digest, sample_of

START = datetime(2026, 3, 1, tzinfo=UTC)


def requests(prefix: str, count: int, tenant: str = "acme") -> list[Request]:
    return [
        Request(
            f"{prefix}{i}", START + timedelta(seconds=i), tenant, "docs", "en", f"{prefix} text {i}"
        )
        for i in range(count)
    ]


def window(count: int) -> Sample:
    return sample_of(requests("live", count), seen=1000, dropped={"duplicate": 3})


def case(payload: str) -> GoldenCase:
    return GoldenCase("g1", payload, "docs", "en")


def composed(
    window: Sample, pool: list[Request], *, golden: Sequence[GoldenCase] = (), size: int = 64
) -> Sample:
    return settle(offer(window, pool, golden=golden), size=size)


def fraction_of_pool(sample: Sample) -> float:
    return sum(one.request_id.startswith("pool") for one in sample.requests) / len(sample.requests)


def test_a_quarter_comes_from_the_pool_and_the_rest_from_the_window() -> None:
    found = composed(window(256), requests("pool", 500), size=100)
    assert len(found.requests) == 100
    assert fraction_of_pool(found) == 0.25
    assert (found.seen, found.dropped) == (1500, {"duplicate": 3})


def test_a_thin_window_is_not_padded_by_the_pool() -> None:
    found = composed(window(25), requests("pool", 500), size=100)
    assert fraction_of_pool(found) == 0.5


def test_the_pool_alone_can_make_the_first_set() -> None:
    found = settle(offer(window(0), requests("pool", 500), golden=()), size=64, anchor_share=1.0)
    assert len(found.requests) == 64


def test_an_empty_calibration_set_is_refused() -> None:
    with pytest.raises(BadInput, match="the calibration set is empty: sample more traffic"):
        composed(window(0), [])


def test_a_pool_that_overlaps_the_golden_set_is_refused_with_examples() -> None:
    golden = [case("pool text 3"), case("pool text 5")]
    with pytest.raises(
        BadInput, match=r"golden set overlaps the calibration set: 2 cases, e\.g\. pool3, pool5"
    ):
        composed(window(10), requests("pool", 10), golden=golden, size=64)


def test_live_requests_that_equal_golden_cases_are_dropped_and_counted() -> None:
    found = composed(window(10), requests("pool", 10), golden=[case("live text 4")], size=64)
    assert "live4" not in {one.request_id for one in found.requests}
    assert found.dropped["golden"] == 1


def test_a_golden_case_is_recognised_after_redaction_too() -> None:
    live = replace(requests("live", 1)[0], payload="ask <EMAIL>")
    sample = sample_of([live, *requests("other", 3)], seen=4, dropped={})
    assert (
        composed(sample, [], golden=[case("ask bob@example.com")], size=64).dropped["golden"] == 1
    )


def test_what_window_and_pool_share_is_taken_once() -> None:
    found = composed(window(10), [*requests("live", 10), *requests("pool", 10)], golden=(), size=64)
    assert len({one.request_id for one in found.requests}) == len(found.requests) == 20


def test_a_senseless_anchor_share_is_refused() -> None:
    with pytest.raises(BadInput, match="anchor share is 2"):
        settle(offer(window(10), [], golden=()), size=64, anchor_share=2)


def test_the_digest_knows_ids_and_contents_but_not_the_order() -> None:
    one, two = requests("a", 2)
    assert digest([one, two]) == digest([two, one])
    assert digest([one]) != digest([replace(one, request_id="b")])
    assert digest([one]) != digest([replace(one, payload="else")])
    assert digest([one]) == digest([replace(one, label="7")])


def guarded(count: int) -> list[Request]:
    return [replace(one, domain="safety") for one in requests("guard", count)]


def test_guardrail_cases_are_always_in_and_take_the_places_of_anchors() -> None:
    offered = offer(
        window(256), [*guarded(20), *requests("pool", 500)], golden=(), guardrails=("safety",)
    )
    found = settle(offered, size=100)
    assert sum(one.domain == "safety" for one in found.requests) == 20
    assert (len(found.requests), fraction_of_pool(found)) == (100, 0.05)


def test_more_guardrail_cases_than_anchors_take_places_of_the_window_and_never_most() -> None:
    offered = offer(
        window(256), [*guarded(40), *requests("pool", 500)], golden=(), guardrails=("safety",)
    )
    assert len(settle(offered, size=100).requests) == 100
    with pytest.raises(
        BadInput, match="40 guardrail cases do not fit into a calibration set of 64"
    ):
        settle(offered, size=64)


def test_a_guardrail_domain_that_the_pool_lacks_is_refused_with_what_it_has() -> None:
    with pytest.raises(BadInput, match="no such domain: it has docs"):
        offer(window(8), requests("pool", 8), golden=(), guardrails=("safety",))


def test_guardrail_cases_are_never_golden_cases() -> None:
    with pytest.raises(BadInput, match="overlaps the calibration set"):
        offer(window(8), guarded(8), golden=[case("guard text 3")], guardrails=("safety",))


def test_near_duplicates_of_the_window_are_dropped_and_counted() -> None:
    text = "Please summarise the attached contract and list every deadline that it names"
    live = [replace(one, payload=f"{text}{'!' * i}") for i, one in enumerate(requests("live", 3))]
    offered = offer(
        sample_of(live, seen=3, dropped={}), requests("pool", 8), golden=(), similarity=0.8
    )
    assert (len(offered.live), offered.dropped["near-duplicate"]) == (1, 2)


def test_all_identical_inputs_and_an_empty_window_leave_the_anchor_alone() -> None:
    same = [replace(one, payload="same") for one in requests("live", 30)]
    found = settle(
        offer(sample_of(same, seen=30, dropped={}), requests("pool", 90), golden=()), size=64
    )
    assert len(found.requests) <= 64
    empty = settle(offer(window(0), requests("pool", 90), golden=(), similarity=0.9), size=64)
    assert len(empty.requests) == 16
