"""Samples as counts in bins that the reference alone decides, for the input detector."""

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
_TIED = 0.05  # fraction of equal values that makes a bin of its own
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
        """Cramér's V, bias-corrected (Bergsma, 2013): small samples would show 0.2 of nothing."""
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
    """Return every feature as a table.

    Args:
        reference: What decides the bins.
        current: What is compared with it.
        embeddings: Full precision's outputs [n, D] and [m, D] for both, where at hand.

    Raises:
        BadInput: On mixed inputs.
    """
    before, after = features(reference), features(current)
    features_of = {
        name: binned(values, after.numeric[name]) for name, values in before.numeric.items()
    }
    features_of |= {
        name: counted(values, after.categories[name]) for name, values in before.categories.items()
    }
    old, new = (
        [request.payload for request in side if isinstance(request.payload, str)]
        for side in (reference, current)
    )
    if len(old) >= LEAST and len(new) >= LEAST:
        # Shuffled first: traffic may alternate, and then every other request is no fair half.
        mixed = [old[place] for place in np.random.default_rng(0).permutation(len(old))]
        vocabulary = documents(mixed[::2])
        features_of[UNKNOWN] = binned(
            unknown_fraction(mixed[1::2], vocabulary), unknown_fraction(new, vocabulary)
        )
        features_of[NGRAMS] = embedded(text_vectors(old), text_vectors(new))
    if embeddings is not None and min(len(side) for side in embeddings) >= LEAST:
        features_of[EMBEDDING] = embedded(*embeddings)
    return features_of


def embedded(reference: NDArray[np.floating], current: NDArray[np.floating]) -> FeatureTable:
    """Bin similarities to the reference by its own quantiles, and tell the squared MMD."""
    compared = compare(reference, current)
    table = binned(compared.reference, compared.current)
    return FeatureTable(
        table.reference,
        table.current,
        f"similarity to the reference {np.median(compared.reference):.3g} "
        f"-> {np.median(compared.current):.3g}, "
        f"squared MMD {compared.discrepancy:.2g}",
    )


def binned(reference: NDArray[np.float64], current: NDArray[np.float64]) -> FeatureTable:
    """Count numbers by quantiles of the reference."""
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
    """Return inner edges: quantiles of the reference, and a bin for a value that many share."""
    bins = int(np.clip(len(reference) // _EXPECTED, 2, _BINS))
    edges = np.unique(np.quantile(reference, np.arange(1, bins) / bins))
    tied = [edge for edge in edges if np.mean(reference == edge) >= _TIED]
    return np.unique(np.concatenate([edges, np.nextafter(tied, np.inf)]))


def counted(reference: Sequence[str], current: Sequence[str]) -> FeatureTable:
    """Count names that the reference knows well, and all others in one bin: what is new."""
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
