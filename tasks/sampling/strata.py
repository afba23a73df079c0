"""A sample of live traffic in which rare domains, languages, tenants and lengths are present and no tenant dominates.

One pass, and memory that does not grow with the traffic: at most `STRATA` reservoirs of bounded size, one for each pair
of domain and language. What a reservoir kept is parted into cells of tenant and length once the pass is over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import merge
from math import ceil
from typing import TypeVar

import numpy as np

from infra.errors import BadInput
from tasks.payloads import fingerprint
from tasks.profiles.reservoir import DistinctCount, Reservoir, ReservoirItem, uniform
from tasks.records import Request, Sample
from tasks.sampling.digest import sample_of

STRATA = 128
"""Pairs of domain and language that are told apart; whoever invents more finds them pooled."""
POOLED = ("other", "other")
_SPARE = 2
"""Places per stratum, in units of the sample size: tenants may send the same text, which only the end can tell."""

LENGTHS = (0.25, 0.5, 0.75, 0.95)
"""Quantiles of a stratum's lengths between its buckets; the last bucket holds the rare long texts."""
CELL = 1
"""Places of a tenant and length of a stratum, at least, while its places suffice."""
FLOORS = 1 / 16
"""Of a stratum's places, the most that tenants with less than one place to expect may take by their floors."""

Stratum = tuple[str, str]  # domain, language
Cell = tuple[str, str]  # tenant, bucket of length
Key = TypeVar("Key", bound=tuple[str, ...])


def draw(
    requests: Iterable[Request],
    *,
    size: int,
    tenant_share: float,
    minimum_per_stratum: int = 8,
    seed: int = 0,
) -> Sample:
    """At most `size` distinct requests, proportional to the traffic of each (domain, language) above a floor.

    Within it, tenants and lengths are proportional above a floor of one place. `weights` tells how many distinct
    requests each one stands for. Of several tenants, none gets more than ceil(tenant_share * size) places; a lone
    tenant may fill the sample.

    The same input in any order, or with requests delivered twice, gives the same sample. Beyond 1024 distinct inputs
    per stratum the counts behind the proportions, and `dropped`, are estimates within some 3 %.
    Raises `BadInput` on a size or a share that allows nothing.
    """
    if size < 1 or not 0 < tenant_share <= 1 or minimum_per_stratum < 0:
        raise BadInput(
            f"a sample of size {size} with tenant_share {tenant_share} and minimum_per_stratum "
            f"{minimum_per_stratum} "
            "cannot be drawn: size must be 1 or more, the share above 0 and at most 1, the minimum "
            "0 or more"
        )
    return choose(
        gather(requests, size=size, tenant_share=tenant_share, seed=seed), minimum_per_stratum
    )


def gather(requests: Iterable[Request], *, size: int, tenant_share: float, seed: int = 0) -> Pool:
    """What one pass keeps of some of the traffic; pools of other parts of it merge with `Pool.merge`."""
    pool = Pool(size, ceil(tenant_share * size), seed)
    for request in requests:
        pool.add(request)
    return pool


def choose(pool: Pool, minimum_per_stratum: int = 8) -> Sample:
    """The sample of everything that was gathered."""
    size, cap = pool.size, pool.cap
    selection = _Selection(size, cap if len(pool.tenants) > 1 else size)
    selection.fill(pool.candidates(), pool.quotas(minimum_per_stratum))
    dropped = {"duplicate": pool.duplicates + selection.duplicates, "tenant-cap": selection.capped}
    sample = sample_of(selection.chosen, seen=pool.seen, dropped=dropped)
    return replace(sample, weights=selection.weights(pool.counts()))


@dataclass(slots=True)
class _Stratum:
    reservoir: Reservoir[Request]
    distinct: DistinctCount = field(default_factory=DistinctCount)
    seen: int = 0

    def merge(self, other: _Stratum) -> None:
        self.reservoir = self.reservoir.merge(other.reservoir)
        self.distinct = self.distinct.merge(other.distinct)
        self.seen += other.seen


class Pool:
    """What one pass keeps; neither order nor grouping of the passes changes it."""

    def __init__(self, size: int, cap: int, seed: int) -> None:
        self.size, self.cap, self._seed = size, cap, seed
        self._strata: dict[Stratum, _Stratum] = {}
        self.tenants: set[str] = set()  # two are enough to know that there are several
        self.seen = 0
        self._last: Stratum | None = (
            None  # the named stratum that gives way first, once there are STRATA
        )

    def add(self, request: Request) -> None:
        """One request."""
        self.seen += 1
        if len(self.tenants) < 2:
            self.tenants.add(request.tenant)
        stratum = self._stratum((request.domain, request.language))
        stratum.seen += 1
        content = fingerprint(request.payload)
        stratum.distinct.add(content)
        # Keyed by content, not by id: equal inputs of one tenant take one place however often they are sent.
        stratum.reservoir.offer(f"{content}:{request.tenant}", request, group=request.tenant)

    def merge(self, other: Pool) -> None:
        """Take in what another pass kept; raises `BadInput` when it was set up differently."""
        self.seen += other.seen
        self.tenants |= other.tenants
        for key, stratum in other._strata.items():
            self._stratum(key).merge(stratum)

    def _stratum(self, key: Stratum) -> _Stratum:
        if key not in self._strata:
            key = self._admitted(key)
            reservoir = Reservoir[Request](
                _SPARE * self.size, seed=self._seed, cap=self.cap, order=_first
            )
            self._strata.setdefault(key, _Stratum(reservoir))
        return self._strata[key]

    def _admitted(self, key: Stratum) -> Stratum:
        """The key, or POOLED: by a hash, since whoever came first would depend on the order of the traffic."""
        if key == POOLED or len(self._strata.keys() - {POOLED}) < STRATA:
            return key
        if self._last is None:
            self._last = max(self._strata.keys() - {POOLED}, key=self._place)
        if self._place(key) > self._place(self._last):
            return POOLED
        left, self._last = self._strata.pop(self._last), None
        self._stratum(POOLED).merge(left)
        return key

    def _place(self, key: Stratum) -> tuple[float, Stratum]:
        return uniform("/".join(key), self._seed), key

    @property
    def duplicates(self) -> int:
        """Requests whose input was there before; an estimate beyond 1024 distinct inputs a stratum."""
        return sum(
            max(0, stratum.seen - stratum.distinct.value) for stratum in self._strata.values()
        )

    def candidates(self) -> dict[Stratum, list[ReservoirItem[Request]]]:
        """Of each stratum, best first."""
        return {key: self._strata[key].reservoir.entries() for key in sorted(self._strata)}

    def quotas(self, minimum: int) -> dict[Stratum, int]:
        """Places of each stratum."""
        return allocate(self.counts(), self.size, minimum)

    def counts(self) -> dict[Stratum, int]:
        """Distinct inputs of each stratum."""
        return {key: stratum.distinct.value for key, stratum in self._strata.items()}


def _first(request: Request) -> tuple[object, ...]:
    """Of several deliveries of a request the one with a label: labels come late, and whichever part is read first."""
    told = [
        (value is None, value or "")
        for value in (request.label, request.decision, request.model_version)
    ]
    return request.time, request.request_id, *told


def allocate(counts: Mapping[Key, int], size: int, minimum: int) -> dict[Key, int]:
    """Places per stratum or cell: proportional to the counts, but none below min(minimum, its count) while that fits.

    Counts {a: 900, b: 98, c: 2}, size 100, minimum 8 -> {a: 88, b: 10, c: 2}.
    """
    if sum(counts.values()) <= size:
        return dict(counts)
    minimum = min(minimum, size // len(counts))
    floors = {key: min(minimum, count) for key, count in counts.items()}
    free = dict(counts)
    left = size
    while True:
        total = sum(free.values())
        # Whoever's share is below the floor gets the floor; the others share what is left.
        low = [key for key, count in free.items() if left * count < floors[key] * total]
        if not low:
            break
        for key in low:
            left -= floors[key]
            del free[key]
    return {**floors, **_proportional(free, left)}


def _proportional(counts: Mapping[Key, int], size: int) -> dict[Key, int]:
    """Whole numbers that add up to `size`, by the largest remainder (Hamilton's method)."""
    total = sum(counts.values())
    shares = {key: divmod(size * count, total) for key, count in counts.items()}
    left = size - sum(whole for whole, _ in shares.values())
    favoured = set(sorted(shares, key=lambda key: (-shares[key][1], key))[:left])
    return {key: whole + (key in favoured) for key, (whole, _) in shares.items()}


def cells(
    entries: Sequence[ReservoirItem[Request]], quota: int
) -> dict[Cell, list[ReservoirItem[Request]]]:
    """A stratum's candidates by tenant and length, best first in each.

    Where tenants are too many for a floor each, those with less than one place to expect are one cell together, in
    which chance decides: whoever invents tenants gains nothing.
    """
    lengths = np.asarray([_length(entry.item) for entry in entries])
    edges = np.quantile(lengths, LENGTHS) if len(entries) else lengths
    sizes = Counter(entry.item.tenant for entry in entries)
    scarce = {tenant for tenant, count in sizes.items() if count * quota < len(entries)}
    pooled = scarce if len(scarce) > FLOORS * quota else set()
    found: dict[Cell, list[ReservoirItem[Request]]] = {}
    for entry, bucket in zip(entries, np.searchsorted(edges, lengths).tolist(), strict=True):
        tenant = "" if entry.item.tenant in pooled else entry.item.tenant
        found.setdefault((tenant, str(bucket)), []).append(entry)
    return found


def _length(request: Request) -> int:
    """Characters of a text; tensors of one model are all of one size."""
    return len(request.payload) if isinstance(request.payload, str) else 0


class _Selection:
    """The final choice among the candidates of all strata."""

    def __init__(self, size: int, cap: int) -> None:
        self._size, self._cap = size, cap
        self._tenants: Counter[str] = Counter()
        self._contents: set[str] = set()
        self._ids: set[str] = set()
        self._cells: dict[tuple[Stratum, Cell], int] = {}  # candidates
        self._of: dict[str, tuple[Stratum, Cell]] = {}  # of each chosen request
        self.chosen: list[Request] = []
        self.duplicates = 0
        self.capped = 0

    def fill(
        self,
        candidates: Mapping[Stratum, list[ReservoirItem[Request]]],
        quotas: Mapping[Stratum, int],
    ) -> None:
        """Each stratum's quota, the rarest first while tenants have room; then whoever is left, best first."""
        waiting: list[list[tuple[ReservoirItem[Request], Stratum, Cell]]] = []
        for key in sorted(candidates, key=lambda key: (quotas[key], key)):
            parted = cells(candidates[key], quotas[key])
            self._cells.update({(key, cell): len(found) for cell, found in parted.items()})
            waiting.append(self._fill_stratum(key, parted, quotas[key]))
        for entry, key, cell in merge(*waiting, key=lambda one: one[0].rank):
            if len(self.chosen) >= self._size:
                break
            self._take(entry.item, key, cell)

    def weights(self, counts: Mapping[Stratum, int]) -> dict[str, float]:
        """Request id -> distinct requests of the traffic that it stands for."""
        held = Counter(self._of.values())
        candidates: Counter[Stratum] = Counter()
        for (key, _), count in self._cells.items():
            candidates[key] += count
        return {
            name: counts[place[0]] * self._cells[place] / candidates[place[0]] / held[place]
            for name, place in self._of.items()
        }

    def _fill_stratum(
        self, key: Stratum, parted: Mapping[Cell, list[ReservoirItem[Request]]], quota: int
    ) -> list[tuple[ReservoirItem[Request], Stratum, Cell]]:
        """Each cell's places, the rarest first; then the stratum's others, best first. Gives what is left over."""
        places = (
            allocate({cell: len(found) for cell, found in parted.items()}, quota, CELL)
            if parted
            else {}
        )
        left: list[tuple[ReservoirItem[Request], Stratum, Cell]] = []
        taken = 0
        for cell in sorted(parted, key=lambda cell: (places[cell], cell)):
            queue = iter(parted[cell])
            filled = 0
            while filled < places[cell] and (entry := next(queue, None)) is not None:
                filled += self._take(entry.item, key, cell)
            taken += filled
            left += [(entry, key, cell) for entry in queue]
        left.sort(key=lambda one: one[0].rank)
        others = iter(left)
        while taken < quota and (one := next(others, None)) is not None:
            taken += self._take(one[0].item, key, one[2])
        return list(others)

    def _take(self, request: Request, key: Stratum, cell: Cell) -> bool:
        content = fingerprint(request.payload)
        if content in self._contents or request.request_id in self._ids:
            self.duplicates += 1
        elif self._tenants[request.tenant] >= self._cap:
            self.capped += 1
        else:
            self._contents.add(content)
            self._ids.add(request.request_id)
            self._tenants[request.tenant] += 1
            self._of[request.request_id] = (key, cell)
            self.chosen.append(request)
            return True
        return False
