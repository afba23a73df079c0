"""Which golden cases count for a group."""

import pytest

from tasks.records import GoldenCase
from tasks.validation.groups import group_names, judged

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
