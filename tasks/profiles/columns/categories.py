"""How often each name of a column was seen.

By name as far as memory is bounded, and exactly by hash bucket.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from datasketches import frequent_items_error_type, frequent_strings_sketch
from numpy.typing import NDArray

from tasks.profiles.columns.hashing import hash64

BUCKETS = 256
"""Names are also counted by hash: exact however many there are."""
_LOG_SIZE = 11
NAMES = 3 * 2**_LOG_SIZE // 4
"""1536 different names are counted exactly; beyond, within `error` of the truth."""


class Categories:
    """Counts of one column's names.

    Merging is exact up to `NAMES` names, and always for the buckets. Frequent items: Anderson and
    others, "A high-performance algorithm for identifying frequent items in data streams" (2017), by
    Apache DataSketches.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.buckets: NDArray[np.int64] = np.zeros(BUCKETS, np.int64)
        self._sketch = frequent_strings_sketch(_LOG_SIZE)

    def add(self, names: pa.Array, counts: NDArray[np.int64]) -> None:
        """Count different names [n], each so often, [n]."""
        used = np.flatnonzero(counts)
        names, counts = names.take(pa.array(used)), counts[used]
        chosen = (hash64(names) % np.uint64(BUCKETS)).astype(np.intp)
        np.add.at(self.buckets, chosen, counts)
        for name, count in zip(names.to_pylist(), counts.tolist(), strict=True):
            self._sketch.update(name, count)

    def merge(self, other: Categories) -> Categories:
        """Return the counts of both together."""
        counted = Categories()
        counted.buckets = self.buckets + other.buckets
        counted._sketch.merge(self._sketch)
        counted._sketch.merge(other._sketch)
        return counted

    @property
    def total(self) -> int:
        """How many rows had a name."""
        return int(self.buckets.sum())

    @property
    def error(self) -> int:
        """How far a count may be off, and how often a name may be missing.

        0 up to `NAMES` names.
        """
        return max((above - below for _, _, below, above in self._frequent()), default=0)

    def counts(self) -> Mapping[str, int]:
        """Return names and how often each was seen, the most frequent first, then by name."""
        estimates = {name: estimate for name, estimate, *_ in self._frequent()}
        return dict(sorted(estimates.items(), key=lambda entry: (-entry[1], entry[0])))

    def _frequent(self) -> list[tuple[str, int, int, int]]:
        items: list[tuple[str, int, int, int]] = self._sketch.get_frequent_items(
            frequent_items_error_type.NO_FALSE_NEGATIVES
        )
        return items

    def state(self) -> Mapping[str, int] | bytes:
        """Return what a profile stores.

        The counts while they are exact, which no order can change; else the sketch.
        """
        return self._sketch.serialize() if self.error else self.counts()

    @classmethod
    def of_state(cls, buckets: NDArray[np.int64], state: Mapping[str, int] | bytes) -> Categories:
        """Read what `state` gave, with the buckets."""
        counted = cls()
        counted.buckets = buckets
        if isinstance(state, bytes):
            counted._sketch = frequent_strings_sketch.deserialize(state)
        else:
            for name, count in state.items():
                counted._sketch.update(name, count)
        return counted
