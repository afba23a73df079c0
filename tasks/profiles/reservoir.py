"""A bounded, weighted random sample that does not depend on order, repetition or sharding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, inf, log
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from infra.errors import BadInput

T = TypeVar("T")


def _unordered(item: object) -> tuple[object, ...]:
    """Put no item before another.

    A function with a name, because a reservoir travels between processes.
    """
    return ()


_MARGIN = 1e-9
"""How much a vectorized logarithm may differ from the scalar one that decides, relative.

The truth is some 1e-16.
"""


def uniform(key: str, seed: int = 0) -> float:
    """Return a number in (0, 1) that only the key and the seed decide."""
    return _unit(xxh64_intdigest(key.encode(), seed % 2**64))


def _unit(digest: int) -> float:
    return ((digest >> 12) + 0.5) / 2**52  # 52 bits: exact in a double, and never 1


@dataclass(frozen=True, slots=True)
class ReservoirItem(Generic[T]):
    """One offered item; `priority` is log(u) / weight."""

    key: str
    group: str
    priority: float
    item: T

    @property
    def rank(self) -> tuple[float, str]:
        """What sorts the best first."""
        return -self.priority, self.key


class Reservoir(Generic[T]):
    """Keeps the `capacity` keys with the largest log(u) / weight, u from a hash of the key.

    A-ES: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006). Since u
    belongs to the key, a key offered twice counts once, and `merge` of two shards equals one pass
    over both. With a `cap`, no group fills more than that many places as long as others want them.
    """

    def __init__(
        self,
        capacity: int,
        *,
        seed: int = 0,
        cap: int | None = None,
        order: Callable[[T], tuple[object, ...]] = _unordered,
    ) -> None:
        """Set up an empty reservoir.

        Args:
            capacity: Keys to keep, positive.
            seed: Of the hash.
            cap: Places that one group may fill while others want them, positive.
            order: Tells which of two items of one key and weight stays: the lesser.

        Raises:
            BadInput: A capacity or cap below 1.
        """
        if capacity < 1 or (cap is not None and cap < 1):
            raise BadInput(
                f"a reservoir of {capacity} places and a cap of {cap} cannot hold anything: give 1 "
                "or more"
            )
        self.capacity = capacity
        self.cap = cap
        self.seed = seed
        self._order = order
        self._kept: dict[str, ReservoirItem[T]] = {}
        self._threshold = -inf

    def offer(self, key: str, item: T, *, weight: float = 1.0, group: str = "") -> None:
        """Consider one item; a weight of 0 is never drawn."""
        if not weight >= 0 or weight == inf:
            raise _bad_weight(key, weight)
        priority = log(uniform(key, self.seed)) / weight if weight else -inf
        if priority > -inf:  # a weight below some 1e-308 is as good as 0
            self._consider(ReservoirItem(key, group, priority, item))

    def offer_all(
        self,
        keys: pa.Array,
        hashes: NDArray[np.uint64],
        items: Callable[[NDArray[np.intp]], Sequence[T]],
        *,
        weights: NDArray[np.float64] | None = None,
        groups: Callable[[NDArray[np.intp]], Sequence[str]] = lambda rows: [""] * len(rows),
    ) -> None:
        """Offer a batch: as `offer` row by row, but compared with the worst that is kept at once.

        Args:
            keys: Strings, [rows].
            hashes: What `hash64(keys, seed)` gives.
            items: Tells the items of the few rows that may stay.
            weights: One a row, or 1 for all.
            groups: Tells the groups of the few rows that may stay.

        Raises:
            BadInput: A weight that `offer` would refuse.
        """
        if weights is not None:
            _require_weights(keys, weights)
        rows = self._promising(hashes, weights)
        heavy = [1.0] * len(rows) if weights is None else weights[rows].tolist()
        chosen = keys.take(pa.array(rows)).to_pylist()
        for key, item, weight, group in zip(chosen, items(rows), heavy, groups(rows), strict=True):
            self.offer(key, item, weight=weight, group=group)

    def _promising(
        self, hashes: NDArray[np.uint64], weights: NDArray[np.float64] | None
    ) -> NDArray[np.intp]:
        """Return rows that may be kept.

        A few too many rather than one too few, since `offer` decides exactly.
        """
        units = (hashes >> np.uint64(12)).astype(np.float64)
        units += 0.5
        units *= 2.0**-52
        if weights is None:
            scores, bound = units, exp(self._threshold) * (1 - _MARGIN)
        else:
            with np.errstate(divide="ignore", over="ignore"):
                scores, bound = np.log(units) / weights, self._threshold * (1 + _MARGIN)
        rows = np.flatnonzero(scores >= bound)
        if self.cap is not None or len(rows) <= self.capacity:
            return rows
        best = np.partition(scores[rows], -self.capacity)[-self.capacity]
        top = rows[scores[rows] >= best - _MARGIN * abs(best)]
        # A key that the batch holds several times takes one place, so fewer may be sure of theirs.
        return top if len(np.unique(hashes[top])) >= self.capacity else rows

    def hold(self, entry: ReservoirItem[T]) -> None:
        """Consider an entry of another reservoir of this seed: one that was stored."""
        self._consider(entry)

    def merge(self, other: Reservoir[T]) -> Reservoir[T]:
        """Return the reservoir of both data sets together.

        Raises:
            BadInput: They were set up differently.
        """
        if (self.capacity, self.cap, self.seed) != (other.capacity, other.cap, other.seed):
            raise BadInput(
                "reservoirs of different capacity, cap or seed cannot be merged: set them up alike"
            )
        both: Reservoir[T] = Reservoir(
            self.capacity, seed=self.seed, cap=self.cap, order=self._order
        )
        for entry in (*self._kept.values(), *other._kept.values()):
            both._consider(entry)
        return both

    def entries(self) -> list[ReservoirItem[T]]:
        """Return what is kept, best first."""
        self._compact()
        return sorted(self._kept.values(), key=lambda entry: entry.rank)

    def items(self) -> list[T]:
        """Return the items of `entries`."""
        return [entry.item for entry in self.entries()]

    def _consider(self, entry: ReservoirItem[T]) -> None:
        if entry.priority < self._threshold:
            return
        stored = self._kept.get(entry.key)
        if stored is None or self._place(entry) < self._place(stored):
            self._kept[entry.key] = entry
        if len(self._kept) >= 2 * self.capacity:  # compacting in bulk costs O(log) an item
            self._compact()

    def _place(self, entry: ReservoirItem[T]) -> tuple[float, tuple[object, ...]]:
        """Return what decides which delivery of a key stays: the lesser.

        That is the heaviest, whatever was dropped before it; of equal ones the lesser item.
        """
        return -entry.priority, self._order(entry.item)

    def _compact(self) -> None:
        capped, spare = _split(self._kept.values(), self.capacity, self.cap)
        if len(capped) == self.capacity:
            self._threshold = capped[-1].priority
        self._kept = {entry.key: entry for entry in (*capped, *spare)}


def _require_weights(keys: pa.Array, weights: NDArray[np.float64]) -> None:
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise _bad_weight(keys[int(bad[0])].as_py(), float(weights[bad[0]]))


def _bad_weight(key: str, weight: float) -> BadInput:
    return BadInput(f"the weight of {key!r} is {weight}: it must be a finite number of 0 or more")


def _split(
    entries: Iterable[ReservoirItem[T]], capacity: int, cap: int | None
) -> tuple[list[ReservoirItem[T]], list[ReservoirItem[T]]]:
    """Return the best entries within the cap, and the best above it that fill what is left."""
    capped: list[ReservoirItem[T]] = []
    above: list[ReservoirItem[T]] = []
    groups: Counter[str] = Counter()
    for entry in sorted(entries, key=lambda entry: entry.rank):
        if cap is not None and groups[entry.group] >= cap:
            above.append(entry)
        elif len(capped) < capacity:
            capped.append(entry)
            groups[entry.group] += 1
    return capped, above[: capacity - len(capped)]


class DistinctCount:
    """How many different keys were added.

    Exact up to `size`, then within about 1 / sqrt(size) of the truth. K minimum values: Bar-Yossef
    and others, "Counting distinct elements in a data stream" (2002).
    """

    def __init__(self, size: int = 1024) -> None:
        """Keep `size` hashes at most."""
        self._lowest: Reservoir[None] = Reservoir(size)

    def add(self, key: str) -> None:
        """Count one key, once."""
        self._lowest.offer(key, None)

    def merge(self, other: DistinctCount) -> DistinctCount:
        """Return the count of both together; what is in both counts once.

        Raises:
            BadInput: Their sizes differ.
        """
        both = DistinctCount(self._lowest.capacity)
        both._lowest = self._lowest.merge(other._lowest)
        return both

    @property
    def value(self) -> int:
        """The number of different keys."""
        entries = self._lowest.entries()
        if len(entries) < self._lowest.capacity:
            return len(entries)
        # The k-th largest of n uniform numbers lies at about 1 - k / n.
        beyond = 1 - uniform(entries[-1].key)
        return round((len(entries) - 1) / beyond)
