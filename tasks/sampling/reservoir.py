"""A bounded, weighted random sample that does not depend on order, repetition or sharding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from math import inf, log
from typing import Generic, TypeVar

from infra.errors import BadInput

T = TypeVar("T")


def _unordered(item: object) -> tuple[object, ...]:
    """No item goes before another; a function with a name, because a reservoir travels between processes."""
    return ()


def uniform(key: str, seed: int = 0) -> float:
    """A number in (0, 1) that only the key and the seed decide."""
    digest = blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52  # 52 bits: exact in a double, and never 1


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One offered item; `priority` is log(u) / weight."""

    key: str
    group: str
    priority: float
    item: T

    @property
    def rank(self) -> tuple[float, str]:
        """Sorts the best first."""
        return -self.priority, self.key


class Reservoir(Generic[T]):
    """Keeps the `capacity` keys with the largest log(u) / weight, u from a hash of the key.

    A-ES: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006). Since u belongs to the key,
    a key offered twice counts once, and `merge` of two shards equals one pass over both.
    With a `cap`, no group fills more than that many places as long as others want them.
    """

    def __init__(
        self,
        capacity: int,
        *,
        seed: int = 0,
        cap: int | None = None,
        order: Callable[[T], tuple[object, ...]] = _unordered,
    ) -> None:
        """`capacity` and `cap` are positive, `order` tells which of two items of one key stays: the lesser.

        Raises `BadInput`.
        """
        if capacity < 1 or (cap is not None and cap < 1):
            raise BadInput(f"a reservoir of {capacity} places and a cap of {cap} cannot hold anything: give 1 or more")
        self.capacity = capacity
        self.cap = cap
        self.seed = seed
        self._order = order
        self._kept: dict[str, Entry[T]] = {}
        self._threshold = -inf

    def offer(self, key: str, item: T, *, weight: float = 1.0, group: str = "") -> None:
        """Consider one item; a weight of 0 is never drawn."""
        if not weight >= 0 or weight == inf:
            raise BadInput(f"the weight of {key!r} is {weight}: it must be a finite number of 0 or more")
        if weight:
            self._consider(Entry(key, group, log(uniform(key, self.seed)) / weight, item))

    def merge(self, other: Reservoir[T]) -> Reservoir[T]:
        """The reservoir of both data sets together; raises `BadInput` when they were set up differently."""
        if (self.capacity, self.cap, self.seed) != (other.capacity, other.cap, other.seed):
            raise BadInput("reservoirs of different capacity, cap or seed cannot be merged: set them up alike")
        whole: Reservoir[T] = Reservoir(self.capacity, seed=self.seed, cap=self.cap, order=self._order)
        for entry in (*self._kept.values(), *other._kept.values()):
            whole._consider(entry)
        return whole

    def entries(self) -> list[Entry[T]]:
        """What is kept, best first."""
        self._compact()
        return sorted(self._kept.values(), key=lambda entry: entry.rank)

    def items(self) -> list[T]:
        """The items of `entries`."""
        return [entry.item for entry in self.entries()]

    def _consider(self, entry: Entry[T]) -> None:
        if entry.priority < self._threshold:
            return
        known = self._kept.get(entry.key)
        if known is None or self._order(entry.item) < self._order(known.item):
            self._kept[entry.key] = entry
        if len(self._kept) >= 2 * self.capacity:  # compacting in bulk costs O(log) an item
            self._compact()

    def _compact(self) -> None:
        kept, spare = _split(self._kept.values(), self.capacity, self.cap)
        if len(kept) == self.capacity:
            self._threshold = kept[-1].priority
        self._kept = {entry.key: entry for entry in (*kept, *spare)}


def _split(entries: Iterable[Entry[T]], capacity: int, cap: int | None) -> tuple[list[Entry[T]], list[Entry[T]]]:
    """The best entries within the cap, and the best of those above it that fill what is left."""
    kept: list[Entry[T]] = []
    above: list[Entry[T]] = []
    groups: Counter[str] = Counter()
    for entry in sorted(entries, key=lambda entry: entry.rank):
        if cap is not None and groups[entry.group] >= cap:
            above.append(entry)
        elif len(kept) < capacity:
            kept.append(entry)
            groups[entry.group] += 1
    return kept, above[: capacity - len(kept)]


class DistinctCount:
    """How many different keys were added: exact up to `size`, then within about 1 / sqrt(size) of the truth.

    K minimum values: Bar-Yossef and others, "Counting distinct elements in a data stream" (2002).
    """

    def __init__(self, size: int = 1024) -> None:
        """`size` hashes are kept at most."""
        self._lowest: Reservoir[None] = Reservoir(size)

    def add(self, key: str) -> None:
        """Count one key, once."""
        self._lowest.offer(key, None)

    def merge(self, other: DistinctCount) -> DistinctCount:
        """The count of both together; what is in both counts once. Raises `BadInput` when their sizes differ."""
        whole = DistinctCount(self._lowest.capacity)
        whole._lowest = self._lowest.merge(other._lowest)
        return whole

    @property
    def value(self) -> int:
        """The number of different keys."""
        entries = self._lowest.entries()
        if len(entries) < self._lowest.capacity:
            return len(entries)
        # The k-th largest of n uniform numbers lies at about 1 - k / n.
        beyond = 1 - uniform(entries[-1].key)
        return round((len(entries) - 1) / beyond)
