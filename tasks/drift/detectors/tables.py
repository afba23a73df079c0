"""Samples as counts in bins that the reference alone decides: what the input detector needs to know of either side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.drift.detectors.embedding import compare, text_vectors
from tasks.drift.detectors.features import features
from tasks.drift.detectors.vocabulary import documents, unknown_fraction
from tasks.drift.formatting import percent
from tasks.records import Request

_BINS = 10
_EXPECTED = 5  # rows that a bin of the reference should hold
_TIED = 0.05  # share of equal values that makes a bin of its own
LEAST = 4
"""Rows on each side for what is measured against one half of the reference."""
UNKNOWN, NGRAMS, EMBEDDING = "unknown n-grams", "n-gram embedding", "model embedding"


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """One feature on both sides."""

    reference: NDArray[np.float64]  # counts, [bins]
    current: NDArray[np.float64]  # [bins]
    change: str  # "median 12 -> 480", "ru 2 % -> 48 %"

    @property
    def moved_by(self) -> float:
        """Cramér's V, bias-corrected (Bergsma, 2013): without it, small samples show 0.2 where nothing moved."""
        from scipy import stats  # type: ignore[import-untyped, unused-ignore]  # loads slowly

        counts = np.array([self.reference, self.current])
        used = counts[:, counts.sum(axis=0) > 0]
        columns = used.shape[1]
        if columns < 2 or not used.sum(axis=1).all():
            return 0.0
        total = used.sum()
        statistic = stats.chi2_contingency(used, correction=False).statistic
        phi = max(0.0, statistic / total - (columns - 1) / (total - 1))
        smaller = min(columns - (columns - 1) ** 2 / (total - 1), 2 - 1 / (total - 1)) - 1
        return float(min(1.0, np.sqrt(phi / smaller))) if smaller > 0 else 0.0


def tables(
    reference: Sequence[Request],
    current: Sequence[Request],
    embeddings: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
) -> dict[str, FeatureTable]:
    """Every feature as a table; `embeddings` are full precision's outputs [n, D] and [m, D] for both, where at hand.

    Raises `BadInput` on mixed inputs.
    """
    before, after = features(reference), features(current)
    found = {name: binned(values, after.numeric[name]) for name, values in before.numeric.items()}
    found |= {
        name: counted(values, after.categories[name]) for name, values in before.categories.items()
    }
    old, new = (
        [one.payload for one in side if isinstance(one.payload, str)]
        for side in (reference, current)
    )
    if len(old) >= LEAST and len(new) >= LEAST:
        # Shuffled first: traffic may alternate, and then every other request is no fair half.
        mixed = [old[place] for place in np.random.default_rng(0).permutation(len(old))]
        vocabulary = documents(mixed[::2])
        found[UNKNOWN] = binned(
            unknown_fraction(mixed[1::2], vocabulary), unknown_fraction(new, vocabulary)
        )
        found[NGRAMS] = embedded(text_vectors(old), text_vectors(new))
    if embeddings is not None and min(len(side) for side in embeddings) >= LEAST:
        found[EMBEDDING] = embedded(*embeddings)
    return found


def embedded(reference: NDArray[np.floating], current: NDArray[np.floating]) -> FeatureTable:
    """Similarities to the reference, in the reference's own bins, with the squared MMD in the wording."""
    seen = compare(reference, current)
    table = binned(seen.reference, seen.current)
    return FeatureTable(
        table.reference,
        table.current,
        f"similarity to the reference {np.median(seen.reference):.3g} -> {np.median(seen.current):.3g}, "
        f"squared MMD {seen.discrepancy:.2g}",
    )


def binned(reference: NDArray[np.float64], current: NDArray[np.float64]) -> FeatureTable:
    """Numbers by quantiles of the reference."""
    edges = _edges(reference)
    before, after = (
        np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).astype(
            np.float64
        )
        for values in (reference, current)
    )
    return FeatureTable(
        before, after, f"median {np.median(reference):.3g} -> {np.median(current):.3g}"
    )


def _edges(reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inner edges: quantiles of the reference, and a bin of its own for a value that many requests share."""
    bins = int(np.clip(len(reference) // _EXPECTED, 2, _BINS))
    edges = np.unique(np.quantile(reference, np.arange(1, bins) / bins))
    tied = [edge for edge in edges if np.mean(reference == edge) >= _TIED]
    return np.unique(np.concatenate([edges, np.nextafter(tied, np.inf)]))


def counted(reference: Sequence[str], current: Sequence[str]) -> FeatureTable:
    """Names that the reference knows well, and one bin for all others: what is new in the traffic falls there."""
    before, after = Counter(reference), Counter(current)
    common = sorted(name for name, count in before.items() if count >= 2 * _EXPECTED)
    rows = [
        np.array(
            [*(side[name] for name in common), side.total() - sum(side[name] for name in common)],
            np.float64,
        )
        for side in (before, after)
    ]
    names = sorted({*before, *after})
    most = max(
        names, key=lambda name: abs(after[name] / after.total() - before[name] / before.total())
    )
    change = (
        f"{most} {percent(before[most] / before.total())} -> {percent(after[most] / after.total())}"
    )
    return FeatureTable(rows[0], rows[1], change)
