"""Which golden cases count for a group."""

import pytest

from tasks.records import GoldenCase
from tasks.specs.groups import group_names, judged, reach

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
