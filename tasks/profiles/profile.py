"""A partition of traffic in a few kilobytes.

The law that merging obeys: profile(A ∪ B) = merge(profile(A), profile(B)), in any order and
grouping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.profiles.columns.categories import Categories
from tasks.profiles.columns.distinct import Distinct
from tasks.profiles.columns.fourier_features import FourierFeatures
from tasks.profiles.columns.quantiles import FineHistogram
from tasks.profiles.reservoir import Reservoir
from tasks.profiles.settings import ProfileSettings

V = TypeVar("V")


class Kept(NamedTuple):
    """A request of the reservoir: what it takes to find and to group it.

    Its input stays in the traffic.
    """

    time: int  # microseconds since 1970, UTC: names the hour's folder
    domain: str
    language: str


@dataclass(frozen=True)
class Profile:
    """What is known of some requests; the size does not depend on their number."""

    settings: ProfileSettings
    rows: int = 0
    missing: Mapping[str, int] = field(
        default_factory=dict
    )  # column -> rows without a value; never 0
    numbers: Mapping[str, FineHistogram] = field(
        default_factory=dict
    )  # latency_ms, hour, length, mean, ...
    names: Mapping[str, Categories] = field(
        default_factory=dict
    )  # tenant, domain, language, script, ...
    distinct: Mapping[str, Distinct] = field(default_factory=dict)  # request_id, input
    fourier_features: Mapping[str, FourierFeatures] = field(
        default_factory=dict
    )  # text, tensor, model
    reservoir: Reservoir[Kept] | None = None

    def histogram(self, feature: str, edges: Sequence[float]) -> NDArray[np.int64]:
        """Count a number below, between and above edges frozen earlier, [edges + 1].

        Zeros where the profile has none. Exact: edges lie on the grid (`snapped`), which is why a
        new reference needs no second look at the traffic.
        """
        return self.numbers.get(feature, FineHistogram.empty()).between(edges)

    def counts(self, feature: str) -> Mapping[str, int]:
        """Return a column's names and their rows, the most frequent first.

        `names[feature].error` bounds the error.
        """
        return self.names[feature].counts() if feature in self.names else MappingProxyType({})

    def buckets(self, feature: str) -> NDArray[np.int64]:
        """Return rows by hash bucket of the name, [256]: exact however many names there are."""
        return (self.names[feature] if feature in self.names else Categories()).buckets

    def rff_mean(self, of: str = "text") -> NDArray[np.float64]:
        """Return the mean random Fourier feature of embeddings, [features].

        The distance of two such means estimates their maximum mean discrepancy.
        """
        return self.fourier_features.get(
            of, FourierFeatures.empty(self.settings.fourier_features)
        ).mean

    @property
    def redelivered(self) -> float:
        """The estimated fraction of rows whose id was counted before.

        0 when ids were not looked at.
        """
        if "request_id" not in self.distinct or not self.rows:
            return 0.0
        return max(0.0, 1 - self.distinct["request_id"].value / self.rows)


def empty(settings: ProfileSettings) -> Profile:
    """Return the neutral element of `merge`."""
    return Profile(settings, reservoir=empty_reservoir(settings))


def empty_reservoir(settings: ProfileSettings) -> Reservoir[Kept] | None:
    """Return a reservoir in which, of a key's several deliveries, the earliest stays."""
    return (
        Reservoir(settings.reservoir, seed=settings.seed, order=tuple)
        if settings.reservoir
        else None
    )


def merge(*profiles: Profile) -> Profile:
    """Merge profiles into that of all the requests together, in any order and grouping.

    Exact, byte for byte, in everything but names beyond the 1536th of a column, whose error is
    stated.

    Raises:
        BadInput: The profiles have different settings, or there are none.
    """
    if not profiles:
        raise BadInput(
            "there is no profile to merge: profile at least one part, or start from "
            "`empty(settings)`"
        )
    return reduce(_both, profiles)


def _both(left: Profile, right: Profile) -> Profile:
    if left.settings != right.settings:
        raise BadInput(
            f"profiles with settings {left.settings.digest} and {right.settings.digest} cannot be "
            "merged: "
            "profile the parts again with the same settings"
        )
    return Profile(
        settings=left.settings,
        rows=left.rows + right.rows,
        missing=_joined(left.missing, right.missing, int.__add__),
        numbers=_joined(left.numbers, right.numbers, FineHistogram.__add__),
        names=_joined(left.names, right.names, Categories.merge),
        distinct=_joined(left.distinct, right.distinct, Distinct.__or__),
        fourier_features=_joined(
            left.fourier_features, right.fourier_features, FourierFeatures.__add__
        ),
        reservoir=left.reservoir.merge(right.reservoir)
        if left.reservoir and right.reservoir
        else None,
    )


def _joined(
    left: Mapping[str, V], right: Mapping[str, V], both: Callable[[V, V], V]
) -> dict[str, V]:
    either = {**left, **right}
    return {
        key: both(left[key], right[key]) if key in left and key in right else either[key]
        for key in sorted(either)
    }
