"""Groups of golden cases, named as in budgets and traffic: "all", "domain=code", "language=ja"."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.records import GoldenCase

ALL = "all"


def groups_of(case: GoldenCase) -> frozenset[str]:
    """The groups that a case belongs to, besides "all"."""
    return frozenset({f"domain={case.domain}", f"language={case.language}"})


def group_names(cases: Iterable[GoldenCase], served: frozenset[str]) -> list[str]:
    """ "all", then every group that the golden set or the traffic holds, sorted."""
    return [ALL, *sorted(served.union(*(groups_of(case) for case in cases)))]


def judged(case: GoldenCase, group: str, served: frozenset[str]) -> bool:
    """Whether a case counts for a group when only these groups are served.

    A case is served when its domain and its language are; a dimension of which `served` names nothing is free.
    """
    names = groups_of(case)
    return (group == ALL or group in names) and all(
        name in served or not any(other.startswith(name.partition("=")[0] + "=") for other in served) for name in names
    )
