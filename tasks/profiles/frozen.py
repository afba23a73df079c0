"""What a release keeps of the traffic it was calibrated on.

These are bin edges, frozen then, and the counts in them. It names no tenant and no request: a
release outlives the traffic, and whoever is forgotten there must not stand here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from infra.canonical import Json, canonical
from infra.errors import BadInput, Tampered
from tasks.profiles.columns.quantiles import snapped
from tasks.profiles.profile import Profile

FROZEN = "traffic.json"
"""The file of a release."""
VERSION = 1
BINS = 10
NAMES = ("domain", "language", "script")
MOST = 64
"""Names of a column; the rest are one bin."""


@dataclass(frozen=True, slots=True)
class Binned:
    """A number in bins between quantiles of the reference."""

    edges: tuple[float, ...]  # on the profile's grid: any profile's counts between them are exact
    counts: tuple[int, ...]  # [edges + 1]


@dataclass(frozen=True, slots=True)
class Frozen:
    """A profile as a reference for others."""

    rows: int
    numbers: Mapping[str, Binned]
    names: Mapping[str, Mapping[str, int]]
    fourier_features: Mapping[
        str, tuple[float, ...]
    ]  # mean random Fourier features of texts or tensors
    settings: str  # digest; means of other settings cannot be compared

    def document(self) -> bytes:
        """Return it as `parse_frozen` reads it."""
        body: dict[str, Json] = asdict(self)
        body["waves"] = body.pop("fourier_features")  # the older name, which stays in the file
        return canonical({"version": VERSION, **body})


def freeze(profile: Profile) -> Frozen:
    """Make a profile a reference: quantiles become edges, with exact counts between them."""
    numbers = {}
    for name, histogram in profile.numbers.items():
        if histogram.total:
            edges = snapped([histogram.quantile(place / BINS) for place in range(1, BINS)])
            numbers[name] = Binned(
                tuple(edges.tolist()), tuple(histogram.between(edges.tolist()).tolist())
            )
    return Frozen(
        profile.rows,
        numbers,
        {
            name: dict(list(profile.counts(name).items())[:MOST])
            for name in NAMES
            if name in profile.names
        },
        {
            name: tuple(np.round(features.mean, 9).tolist())
            for name, features in profile.fourier_features.items()
            if features.rows
        },
        profile.settings.digest,
    )


def parse_frozen(data: bytes, *, where: str) -> Frozen:
    """Read what `document` wrote.

    Raises:
        BadInput: Another version.
        Tampered: Anything else.
    """
    try:
        document = json.loads(data)
        version = document.pop("version")
        numbers = {
            name: Binned(tuple(binned["edges"]), tuple(binned["counts"]))
            for name, binned in document.pop("numbers").items()
        }
        features = {name: tuple(mean) for name, mean in document.pop("waves").items()}
        frozen = Frozen(numbers=numbers, fourier_features=features, **document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Tampered(
            f"{where} is not a frozen profile ({error}): restore it, or re-quantize to make one"
        ) from error
    if version != VERSION:
        raise BadInput(
            f"{where} has version {version}, not {VERSION}: re-quantize to make one of this version"
        )
    return frozen
