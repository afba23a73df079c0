"""Sampling in the same pass as profiling.

It asks whether each request is drawn as often as it should be, whether shards merge, and what that
costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from time import process_time

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats

from benchmarks.harness.table import Goal, ResultTable, column
from tasks.profiles.columns.hashing import hash64
from tasks.profiles.reservoir import Reservoir

PLACES = 1024
SHARDS = 64
_BATCH = 1 << 16


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """Figures of one test, or of one way to fill a reservoir."""

    name: str = column("what")
    rows: int = column("requests", ",d")
    seeds: int | None = column("seeds", ",d")
    p: float | None = column("chi-square p", ".3f")
    nanoseconds: float | None = column("ns a request", ".0f")


def measure(quick: bool) -> ResultTable:
    """Measure distribution, merging and cost."""
    seeds, rows = (100, 100_000) if quick else (1_000, 1_000_000)
    uniform, weighted = uniform_p(4 * PLACES, PLACES, seeds), weighted_p(seeds)
    equal, timed = _passes(rows)
    goals = (
        Goal(f"p of equal inclusion over {seeds} seeds:", 0.001, uniform),
        Goal(f"p of inclusion by weight over {seeds} seeds:", 0.001, weighted),
        Goal(f"{SHARDS} merged shards equal one pass (1: yes):", 1, float(equal)),
    )
    table_rows = (
        SamplingRow(f"inclusion of each, {PLACES} places", 4 * PLACES, seeds, uniform, None),
        SamplingRow("inclusion by weights of 1 to 8, one place", 8, seeds, weighted, None),
        *timed,
    )
    return ResultTable("sampling", "Sampling in the same pass", table_rows, goals)


def uniform_p(population: int, places: int, seeds: int) -> float:
    """Return the p of a chi-square over how often each of the requests was drawn.

    The variance of each is seeds * q (1 - q) with q = places / population. Two of one draw are
    correlated by -1 / (population - 1), which leaves population - 1 degrees of freedom.
    """
    keys = pa.array([f"request-{n}" for n in range(population)])
    drawn = np.zeros(population)
    for seed in range(seeds):
        np.add.at(drawn, filled(keys, places, seed).items(), 1)
    fraction = places / population
    variance = seeds * fraction * (1 - fraction) * population / (population - 1)
    return float(stats.chi2.sf(((drawn - seeds * fraction) ** 2).sum() / variance, population - 1))


def weighted_p(seeds: int) -> float:
    """Return the p of a chi-square of who takes the only place, against weights of 1 to 8."""
    weights = np.arange(1, 9).astype(float)
    keys = pa.array([f"request-{n}" for n in range(8)])
    drawn = np.zeros(8)
    for seed in range(seeds):
        drawn[filled(keys, 1, seed, weights).items()[0]] += 1
    return float(stats.chisquare(drawn, seeds * weights / weights.sum()).pvalue)


def filled(
    keys: pa.Array,
    places: int,
    seed: int,
    weights: NDArray[np.float64] | None = None,
    start: int = 0,
) -> Reservoir[int]:
    """Return a reservoir of row numbers, from `start` on."""
    reservoir: Reservoir[int] = Reservoir(places, seed=seed)
    for first in range(0, len(keys), _BATCH):
        part = keys[first : first + _BATCH]
        heavy = None if weights is None else weights[first : first + _BATCH]
        numbers = partial(_numbered, start=start + first)
        reservoir.offer_all(part, hash64(part, seed), numbers, weights=heavy)
    return reservoir


def _numbered(rows: NDArray[np.intp], start: int) -> Sequence[int]:
    return (rows + start).tolist()


def _passes(rows: int) -> tuple[bool, list[SamplingRow]]:
    keys = pa.array([f"request-{n:012}" for n in range(rows)])
    begin = process_time()
    single_pass = filled(keys, PLACES, 0)
    batchwise = process_time() - begin
    cuts = np.linspace(0, rows, SHARDS + 1).astype(int)
    shards = [filled(keys[a:b], PLACES, 0, start=a) for a, b in pairwise(cuts.tolist())]
    order = np.random.default_rng(0).permutation(SHARDS)
    merged = reduce(Reservoir.merge, (shards[n] for n in order))
    begin = process_time()
    single: Reservoir[int] = Reservoir(PLACES)
    for number, key in enumerate(keys.to_pylist()):
        single.offer(key, number)
    one_by_one = process_time() - begin
    equal = single_pass.entries() == merged.entries() == single.entries()
    return equal, [
        SamplingRow("offered in batches", rows, None, None, batchwise / rows * 1e9),
        SamplingRow("offered one by one", rows, None, None, one_by_one / rows * 1e9),
    ]
