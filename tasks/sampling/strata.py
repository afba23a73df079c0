"""A sample of live traffic in which what is rare is present and no tenant dominates.

Domains, languages, tenants and lengths may be rare. It takes one pass, and memory that does not
grow with the traffic: at most `STRATA` reservoirs of bounded size, one for each pair of domain and
language. Once the pass is over, what a reservoir kept is parted into cells of tenant and length.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import merge
from math import ceil
from typing import TypeVar

import numpy as np

from infra.errors import BadInput
from infra.identifiers import RequestId
from tasks.payloads import fingerprint
from tasks.profiles.reservoir import DistinctCount, Reservoir, ReservoirItem, uniform
from tasks.records import UNKNOWN, Request, Sample
from tasks.sampling.digest import sample_of

STRATA = 128
"""Pairs of domain and language that are told apart; whoever invents more finds them pooled."""
POOLED = ("other", "other")
_SPARE = 2
"""Places per stratum, in units of the sample size.

Tenants may send the same text, which only the end can tell.
"""

LEAST_PER_STRATUM = 8
"""Places of a stratum, at least, while it has as many requests and the places suffice.

A language model that never saw a language in calibration may lose half of its perplexity there:
SmolLM2 is at 1.51 of full precision's on Japanese, and at 1.04 with 4 windows of 64.
"""
LOOKED_AT = 64
"""Characters of a text whose language nobody said, by which its script is told."""

LENGTHS = (0.25, 0.5, 0.75, 0.95)
"""Quantiles of a stratum's lengths between its buckets; the last one holds the rare long texts."""
CELL = 1
"""Places of a tenant and length of a stratum, at least, while its places suffice."""
FLOORS = 1 / 16
"""Of a stratum's places, the most that scarce tenants may take by their floors.

A tenant is scarce with less than one place to expect.
"""

Stratum = tuple[str, str]  # domain, language
Cell = tuple[str, str]  # tenant, bucket of length
Key = TypeVar("Key", bound=tuple[str, ...])


def draw(
    requests: Iterable[Request],
    *,
    size: int,
    tenant_share: float,
    minimum_per_stratum: int = LEAST_PER_STRATUM,
    seed: int = 0,
) -> Sample:
    """Draw at most `size` distinct requests, proportional to the traffic of each stratum.

    A stratum is a domain and language; none gets less than a floor. Within it, tenants and lengths
    are proportional above a floor of one place. `weights` of the sample tells how many distinct
    requests each one stands for. Of several tenants, none gets more than ceil(tenant_share * size)
    places; a lone tenant may fill the sample.

    The same input in any order, or with requests delivered twice, gives the same sample. Beyond
    1024 distinct inputs per stratum the counts behind the proportions, and `dropped`, are estimates
    within some 3 %.

    Raises:
        BadInput: A size or a fraction that allows nothing.
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
    """Return what one pass keeps of some of the traffic.

    Pools of other parts of it merge with `Pool.merge`.
    """
    pool = Pool(size, ceil(tenant_share * size), seed)
    for request in requests:
        pool.add(request)
    return pool


def choose(pool: Pool, minimum_per_stratum: int = LEAST_PER_STRATUM) -> Sample:
    """Choose the sample of everything that was gathered."""
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
        # the named stratum that gives way first, once there are STRATA
        self._last: Stratum | None = None

    def add(self, request: Request) -> None:
        """Take in one request."""
        self.seen += 1
        if len(self.tenants) < 2:
            self.tenants.add(request.tenant)
        stratum = self._stratum(stratum_of(request))
        stratum.seen += 1
        content = fingerprint(request.payload)
        stratum.distinct.add(content)
        # Keyed by content, not by id: equal inputs of one tenant take one place however often they
        # are sent.
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
        """Return the key, or POOLED.

        A hash decides, since whoever came first would depend on the order of the traffic.
        """
        if key == POOLED or len(self._strata.keys() - {POOLED}) < STRATA:
            return key
        if self._last is None:
            self._last = max(self._strata.keys() - {POOLED}, key=self._place)
        if self._place(key) > self._place(self._last):
            return POOLED
        removed, self._last = self._strata.pop(self._last), None
        self._stratum(POOLED).merge(removed)
        return key

    def _place(self, key: Stratum) -> tuple[float, Stratum]:
        return uniform("/".join(key), self._seed), key

    @property
    def duplicates(self) -> int:
        """How many requests had an input that was there before.

        An estimate beyond 1024 distinct inputs a stratum.
        """
        return sum(
            max(0, stratum.seen - stratum.distinct.value) for stratum in self._strata.values()
        )

    def candidates(self) -> dict[Stratum, list[ReservoirItem[Request]]]:
        """Return each stratum's candidates, best first."""
        return {key: self._strata[key].reservoir.entries() for key in sorted(self._strata)}

    def quotas(self, minimum: int) -> dict[Stratum, int]:
        """Return the places of each stratum."""
        return allocate(self.counts(), self.size, minimum)

    def counts(self) -> dict[Stratum, int]:
        """Return the distinct inputs of each stratum."""
        return {key: stratum.distinct.value for key, stratum in self._strata.items()}


def stratum_of(request: Request) -> Stratum:
    """Return domain and language; where nobody said the language, a text's main script."""
    if request.language != UNKNOWN or not isinstance(request.payload, str):
        return request.domain, request.language
    return request.domain, f"{UNKNOWN} {_main_script(request.payload)}"


def _main_script(text: str) -> str:
    """Return the script of most letters at the text's beginning, the first name of equals."""
    scripts = Counter(
        unicodedata.name(letter, "").partition(" ")[0].partition("-")[0]
        for letter in text[:LOOKED_AT]
        if letter.isalpha()
    )
    return min(scripts, key=lambda name: (-scripts[name], name), default="")


def _first(request: Request) -> tuple[object, ...]:
    """Order deliveries of a request so that the one with a label is first.

    Labels come late, and any part may be read first.
    """
    late = [
        (value is None, value or "")
        for value in (request.label, request.decision, request.model_version)
    ]
    return request.time, request.request_id, *late


def allocate(counts: Mapping[Key, int], size: int, minimum: int) -> dict[Key, int]:
    """Return places per stratum or cell, proportional to the counts above a floor.

    None gets less than min(minimum, its count) while that fits. Counts {a: 900, b: 98, c: 2}, size
    100, minimum 8 -> {a: 88, b: 10, c: 2}.
    """
    if sum(counts.values()) <= size:
        return dict(counts)
    minimum = min(minimum, size // len(counts))
    floors = {key: min(minimum, count) for key, count in counts.items()}
    free = dict(counts)
    places = size
    while True:
        total = sum(free.values())
        # Whoever's part is below the floor gets the floor; the others divide what remains.
        low = [key for key, count in free.items() if places * count < floors[key] * total]
        if not low:
            break
        for key in low:
            places -= floors[key]
            del free[key]
    return {**floors, **_proportional(free, places)}


def _proportional(counts: Mapping[Key, int], size: int) -> dict[Key, int]:
    """Return whole numbers that add up to `size`, by the largest remainder (Hamilton's method)."""
    total = sum(counts.values())
    parts = {key: divmod(size * count, total) for key, count in counts.items()}
    missing = size - sum(places for places, _ in parts.values())
    favoured = set(sorted(parts, key=lambda key: (-parts[key][1], key))[:missing])
    return {key: places + (key in favoured) for key, (places, _) in parts.items()}


def cells(
    entries: Sequence[ReservoirItem[Request]], quota: int
) -> dict[Cell, list[ReservoirItem[Request]]]:
    """Return a stratum's candidates by tenant and length, best first in each.

    Where tenants are too many for a floor each, the scarce ones are one cell together, in which
    chance decides: whoever invents tenants gains nothing.
    """
    lengths = np.asarray([_length(entry.item) for entry in entries])
    edges = np.quantile(lengths, LENGTHS) if len(entries) else lengths
    sizes = Counter(entry.item.tenant for entry in entries)
    scarce = {tenant for tenant, count in sizes.items() if count * quota < len(entries)}
    pooled = scarce if len(scarce) > FLOORS * quota else set()
    by_cell: dict[Cell, list[ReservoirItem[Request]]] = {}
    for entry, bucket in zip(entries, np.searchsorted(edges, lengths).tolist(), strict=True):
        tenant = "" if entry.item.tenant in pooled else entry.item.tenant
        by_cell.setdefault((tenant, str(bucket)), []).append(entry)
    return by_cell


def _length(request: Request) -> int:
    """Return the characters of a text; tensors of one model are all of one size."""
    return len(request.payload) if isinstance(request.payload, str) else 0


class _Selection:
    """The final choice among the candidates of all strata."""

    def __init__(self, size: int, cap: int) -> None:
        self._size, self._cap = size, cap
        self._tenants: Counter[str] = Counter()
        self._contents: set[str] = set()
        self._ids: set[str] = set()
        self._cells: dict[tuple[Stratum, Cell], int] = {}  # candidates
        self._of: dict[RequestId, tuple[Stratum, Cell]] = {}  # of each chosen request
        self.chosen: list[Request] = []
        self.duplicates = 0
        self.capped = 0

    def fill(
        self,
        candidates: Mapping[Stratum, list[ReservoirItem[Request]]],
        quotas: Mapping[Stratum, int],
    ) -> None:
        """Fill each stratum's quota, the rarest first; then take whoever is left, best first.

        The second part lasts while tenants have places.
        """
        waiting: list[list[tuple[ReservoirItem[Request], Stratum, Cell]]] = []
        for key in sorted(candidates, key=lambda key: (quotas[key], key)):
            parted = cells(candidates[key], quotas[key])
            self._cells.update({(key, cell): len(entries) for cell, entries in parted.items()})
            waiting.append(self._fill_stratum(key, parted, quotas[key]))
        for entry, key, cell in merge(*waiting, key=lambda waiting: waiting[0].rank):
            if len(self.chosen) >= self._size:
                break
            self._take(entry.item, key, cell)

    def weights(self, counts: Mapping[Stratum, int]) -> dict[RequestId, float]:
        """Return by request id how many distinct requests of the traffic it stands for."""
        chosen = Counter(self._of.values())
        candidates: Counter[Stratum] = Counter()
        for (key, _), count in self._cells.items():
            candidates[key] += count
        return {
            name: counts[place[0]] * self._cells[place] / candidates[place[0]] / chosen[place]
            for name, place in self._of.items()
        }

    def _fill_stratum(
        self, key: Stratum, parted: Mapping[Cell, list[ReservoirItem[Request]]], quota: int
    ) -> list[tuple[ReservoirItem[Request], Stratum, Cell]]:
        """Fill each cell's places, the rarest first; then take the stratum's others, best first.

        Returns:
            The candidates that are left over.
        """
        places = (
            allocate({cell: len(entries) for cell, entries in parted.items()}, quota, CELL)
            if parted
            else {}
        )
        remaining: list[tuple[ReservoirItem[Request], Stratum, Cell]] = []
        count = 0
        for cell in sorted(parted, key=lambda cell: (places[cell], cell)):
            queue = iter(parted[cell])
            filled = 0
            while filled < places[cell] and (entry := next(queue, None)) is not None:
                filled += self._take(entry.item, key, cell)
            count += filled
            remaining += [(entry, key, cell) for entry in queue]
        remaining.sort(key=lambda waiting: waiting[0].rank)
        others = iter(remaining)
        while count < quota and (waiting := next(others, None)) is not None:
            count += self._take(waiting[0].item, key, waiting[2])
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
