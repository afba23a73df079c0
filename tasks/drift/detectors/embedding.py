"""Maximum mean discrepancy of requests and reference, through random Fourier features.

Rahimi and Recht (2007) for the features, Gretton et al. (2012) for the discrepancy. A mean of
features is all that a side has to keep, so sides of any size compare in a few thousand additions,
and shards add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.drift.detectors.vocabulary import ngrams

WIDTH = 512
"""Signed buckets into which n-grams are folded (Weinberger et al., "Feature hashing", 2009)."""
FEATURES = 256
_SAMPLED = 256  # rows from which the kernel's width is taken


@dataclass(frozen=True, slots=True)
class Compared:
    """Two samples beside each other."""

    reference: NDArray[
        np.float64
    ]  # similarity of each held-out reference row to the others, [n - n // 2]
    current: NDArray[np.float64]  # similarity of each current row to the same reference rows, [m]
    discrepancy: float  # unbiased estimate of the squared MMD; around 0 when nothing moved


def text_vectors(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return hashed n-gram counts, square roots taken and scaled to length 1: [texts, WIDTH]."""
    vectors = np.zeros((len(texts), WIDTH))
    for place, text in enumerate(texts):
        buckets = ngrams(text)
        sign = np.where(buckets // WIDTH % 2, 1.0, -1.0)
        vectors[place] = np.bincount(buckets % WIDTH, weights=sign, minlength=WIDTH)
    vectors = np.sign(vectors) * np.sqrt(np.abs(vectors))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = np.divide(vectors, lengths, out=vectors, where=lengths > 0)
    return scaled


def compare(
    reference: NDArray[np.floating], current: NDArray[np.floating], *, seed: int = 0
) -> Compared:
    """Compare vectors [n, D] with [m, D], n >= 4 and m >= 2; values that are not finite count as 0.

    A random half of the reference says where it lies, and the other is held against it as the
    current rows are: a row that helped to draw the map would look closer than it is. The Gaussian
    kernel's width is the median distance in the reference (zero distances left out), so the current
    side decides nothing about the measure.
    """
    before, after = (
        np.nan_to_num(np.asarray(side, np.float64), posinf=0.0, neginf=0.0)
        for side in (reference, current)
    )
    generator = np.random.default_rng(seed)
    before = before[
        generator.permutation(len(before))
    ]  # traffic may alternate: no fair half otherwise
    frequencies = generator.standard_normal((before.shape[1], FEATURES)) / _width(before)
    offsets = generator.uniform(0, 2 * np.pi, FEATURES)
    left, right = (
        np.sqrt(2 / FEATURES) * np.cos(side @ frequencies + offsets) for side in (before, after)
    )
    centre = left[::2].mean(axis=0)
    # Equal rows must give equal numbers, wherever they stand in a matrix product.
    own, other = (np.round(side @ centre, 6) for side in (left[1::2], right))
    return Compared(
        own,
        other,
        _within(left) + _within(right) - 2 * float(left.mean(axis=0) @ right.mean(axis=0)),
    )


def _within(mapped: NDArray[np.float64]) -> float:
    """Return the mean kernel value of two different rows."""
    count, total = len(mapped), mapped.sum(axis=0)
    return float((total @ total - (mapped**2).sum()) / (count * (count - 1)))


def _width(rows: NDArray[np.float64]) -> float:
    some = rows[:: max(1, len(rows) // _SAMPLED)][:_SAMPLED]
    squares = (some**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * some @ some.T, 0.0))
    apart = distances[distances > 1e-6]
    return float(np.median(apart)) if len(apart) else 1.0
