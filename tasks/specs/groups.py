"""Groups of golden cases, named as in budgets and traffic ("all", "domain=code").

Traffic says what it holds by groups that make up enough of it. A group that the golden set has
binds. Traffic of a group that it lacks, or of none, can only be judged by everything there is: its
dimension narrows nothing then. So it is where most of it is of rare values: none of them says
what is served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.records import UNKNOWN, GoldenCase, Request

ALL = "all"
DIMENSIONS = ("domain", "language")
SERVED_FRACTION = 0.02
"""Of the requests that a group must make up to count as served."""
RARE = "…"
"""The value that stands for all rare ones of a dimension, where they are most of the requests."""
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


def served_groups(requests: Sequence[Request]) -> tuple[str, ...]:
    """Return the domains and languages that make up at least `SERVED_FRACTION` of the requests.

    As "domain=…" and "language=…". Where rarer values are most of a dimension, "domain=RARE" stands
    for them.
    """
    names = []
    for dimension in DIMENSIONS:
        counts = sizes_of(requests, dimension)
        served = [value for value, n in counts.items() if n >= SERVED_FRACTION * len(requests)]
        if 2 * sum(counts[value] for value in served) < len(requests):
            served.append(RARE)
        names += [f"{dimension}={value}" for value in served]
    return tuple(sorted(names))


def sizes_of(requests: Iterable[Request], dimension: str) -> Counter[str]:
    """Return how many requests are of each domain, or of each language."""
    return Counter(str(getattr(request, dimension)) for request in requests)


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
