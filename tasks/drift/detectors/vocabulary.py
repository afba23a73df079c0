"""Which words a text is made of, without a tokenizer: hashed character n-grams, for any script.

Words would need a splitter for each language, and Thai and Chinese put no spaces between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIZES = (2, 3)
BUCKETS = 1 << 18
_LOOKED_AT = 4_000  # characters of one text: fractions of a longer one change little
_PRIMES = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xC2B2AE3D27D4EB4F),
    np.uint64(0x165667B19E3779F9),
)


def ngrams(text: str) -> NDArray[np.int64]:
    """Return buckets of every n-gram, in order, with repetitions: [about 2 * characters]."""
    letters = np.frombuffer(
        text[:_LOOKED_AT].casefold().encode("utf-32-le", "surrogatepass"), np.uint32
    )
    hashes = [_hashed(letters, size) for size in SIZES if len(letters) >= size]
    return np.concatenate(hashes) if hashes else np.zeros(0, np.int64)


def _hashed(letters: NDArray[np.uint32], size: int) -> NDArray[np.int64]:
    count = len(letters) - size + 1
    mixed = np.full(count, size, np.uint64)
    with np.errstate(over="ignore"):  # a multiplicative hash wraps on purpose
        for place in range(size):
            mixed = (mixed ^ letters[place : place + count].astype(np.uint64)) * _PRIMES[place]
            mixed ^= mixed >> np.uint64(29)
    return (mixed % np.uint64(BUCKETS)).astype(np.int64)


def documents(texts: Sequence[str]) -> NDArray[np.int32]:
    """Count the texts that hold each n-gram: [BUCKETS].

    This is the vocabulary, and adds up over shards.
    """
    counts = np.zeros(BUCKETS, np.int32)
    for text in texts:
        counts[np.unique(ngrams(text))] += 1
    return counts


def unknown_fraction(texts: Sequence[str], vocabulary: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the fraction of each text's n-grams that the vocabulary lacks: [texts]."""
    buckets = (ngrams(text) for text in texts)
    return np.array([float((vocabulary[row] == 0).mean()) if len(row) else 0.0 for row in buckets])
