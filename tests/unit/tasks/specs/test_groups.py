"""Which golden cases count for a group."""

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from tasks.records import GoldenCase, Request
from tasks.specs.groups import RARE, group_names, judged, reach, served_groups

CASE = GoldenCase("1", "text", "docs", "en")


def test_groups_are_those_of_the_golden_set_and_of_traffic() -> None:
    names = group_names([CASE], frozenset({"language=ja", "language=en"}))
    assert names == ["all", "domain=docs", "language=en", "language=ja"]


@pytest.mark.parametrize(
    ("group", "served", "counts"),
    [
        ("all", set(), True),
        ("language=en", set(), True),
        ("language=ja", set(), False),
        ("all", {"language=en", "domain=docs"}, True),
        ("all", {"language=en", "domain=code"}, False),
        ("domain=docs", {"language=ja", "domain=docs"}, False),
        ("all", {"language=en"}, True),
        ("all", {"language=ja"}, False),
    ],
)
def test_a_case_counts_where_its_group_fits_and_both_its_dimensions_are_served(
    group: str, served: set[str], counts: bool
) -> None:
    assert judged(CASE, group, frozenset(served)) is counts


def test_a_dimension_with_traffic_of_no_case_narrows_nothing() -> None:
    found = reach({"domain=docs", "domain=legal", "language=en"}, [CASE])
    assert found.known == {"domain=docs", "language=en"}
    assert found.lacking == {"domain=legal"}
    assert found.narrowing == {"language=en"}


def served(domains: Iterable[str], language: str = "unknown") -> set[str]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return set(
        served_groups(
            [Request(str(n), now, "t", domain, language, "x") for n, domain in enumerate(domains)]
        )
    )


def test_served_are_the_groups_that_make_up_enough_of_the_traffic() -> None:
    assert served(["docs"] * 97 + ["code"] * 2 + ["rare"]) == {
        "domain=docs",
        "domain=code",
        "language=unknown",
    }


def test_traffic_of_rare_values_alone_is_of_no_group_and_binds_all_cases() -> None:
    names = served((f"session-{n}" for n in range(200)), "en")
    assert names == {f"domain={RARE}", "language=en"}
    assert reach(names, [CASE]).narrowing == {"language=en"}


def test_where_rare_values_are_most_of_the_traffic_the_common_one_narrows_nothing() -> None:
    tail = [f"session-{n}" for n in range(120)]
    assert reach(served(["docs"] * 80 + tail), [CASE]).narrowing == set()
    assert reach(served(["docs"] * 160 + tail[:40]), [CASE]).narrowing == {"domain=docs"}
