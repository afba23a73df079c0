"""Groups of golden cases, named as in budgets and traffic ("all", "domain=code").

Traffic says what it holds by groups that make up enough of it. A group that the golden set has
binds. Traffic of a group that it lacks, or of none, can only be judged by everything there is: its
dimension narrows nothing then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.records import UNKNOWN, GoldenCase

ALL = "all"
_NAMELESS = frozenset({f"domain={UNKNOWN}", f"language={UNKNOWN}"})


@dataclass(frozen=True, slots=True)
class Reach:
    """How far golden cases reach into the traffic."""

    known: frozenset[str]  # served groups that the cases hold: they bind
    lacking: frozenset[str]  # served groups without a case: nothing can be judged by them

    @property
    def narrowing(self) -> frozenset[str]:
        """Return the groups that judged cases must belong to.

        They are of dimensions in which every served group is known.
        """
        free = {_dimension(name) for name in self.lacking}
        return frozenset(name for name in self.known if _dimension(name) not in free)


def reach(served: Iterable[str], cases: Iterable[GoldenCase]) -> Reach:
    """Return which served groups these cases hold, and which they lack.

    "unknown" is no group, whoever writes it.
    """
    wanted = frozenset(served)
    covered = wanted & _groups(cases) - _NAMELESS
    return Reach(covered, wanted - covered)


def groups_of(case: GoldenCase) -> frozenset[str]:
    """Return the groups that a case belongs to, besides "all"."""
    return frozenset({f"domain={case.domain}", f"language={case.language}"})


def group_names(cases: Iterable[GoldenCase], served: frozenset[str]) -> list[str]:
    """Return "all", then every group that the golden set or the traffic holds, sorted."""
    return [ALL, *sorted(served | _groups(cases))]


def judged(case: GoldenCase, group: str, narrowing: frozenset[str]) -> bool:
    """Return whether a case counts for a group when cases are narrowed to these groups.

    A case counts when its domain and its language are named. A dimension of which nothing is named
    is free.
    """
    names = groups_of(case)
    return (group == ALL or group in names) and all(
        name in narrowing or not any(_dimension(other) == _dimension(name) for other in narrowing)
        for name in names
    )


def _groups(cases: Iterable[GoldenCase]) -> frozenset[str]:
    return frozenset().union(*(groups_of(case) for case in cases))


def _dimension(group: str) -> str:
    return group.partition("=")[0]
