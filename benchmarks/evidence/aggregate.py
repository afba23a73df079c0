"""The rows of the map, aggregated from cells, with intervals over cases and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.trial import Cell
from tasks.records import Interval

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class ShiftResult:
    """Losses of one kind of model under one shift and one scheme."""

    kind: str
    shift: str
    scheme: str
    quality_home: float  # full precision's own
    quality: float | None
    home: float  # mean loss of the champion before the shift
    stale: Interval
    recalibrated: Interval | None
    # The fraction of the shift's cost that new scales alone win back; None where it cost nothing.
    won_back: Interval | None
    candidates: tuple[str, ...]  # chosen, one a seed
    chosen: Interval


def rows(cells: Sequence[Cell]) -> list[ShiftResult]:
    """Aggregate cells of several seeds, one row for each kind, shift and scheme."""
    ordered = sorted(cells, key=_key)
    return [_row(list(group)) for _, group in groupby(ordered, key=_key)]


def _key(cell: Cell) -> tuple[str, str, str]:
    return cell.kind, cell.shift, cell.scheme


def _row(cells: Sequence[Cell]) -> ShiftResult:
    first = cells[0]
    stale = np.concatenate([cell.stale for cell in cells])
    again = [cell.recalibrated for cell in cells if cell.recalibrated is not None]
    recalibrated = np.concatenate(again) if again else None
    home = float(np.mean([cell.home.mean() for cell in cells]))
    shifted = np.concatenate([cell.quality for cell in cells])
    return ShiftResult(
        *_key(first),
        float(np.mean(np.concatenate([cell.quality_home for cell in cells]))),
        float(shifted.mean()) if shifted.size else None,
        home,
        _mean(stale),
        None if recalibrated is None else _mean(recalibrated),
        None if recalibrated is None else _won_back(stale, recalibrated, home),
        tuple(cell.candidate for cell in cells),
        _mean(np.concatenate([cell.chosen for cell in cells])),
    )


def _mean(values: NDArray[np.float64]) -> Interval:
    means = values[_resampled(len(values))].mean(axis=1)
    return Interval(float(values.mean()), *map(float, np.quantile(means, (0.025, 0.975))))


def _won_back(
    stale: NDArray[np.float64], again: NDArray[np.float64], home: float
) -> Interval | None:
    """Return (stale - recalibrated) / (stale - home), paired by case.

    None where the shift's cost is not clear of zero.
    """
    places = _resampled(len(stale))
    cost = stale[places].mean(axis=1) - home
    if np.quantile(cost, 0.025) <= 0:
        return None
    fractions = (stale - again)[places].mean(axis=1)[cost > 0] / cost[cost > 0]
    value = float((stale - again).mean() / (stale.mean() - home))
    return Interval(value, *map(float, np.quantile(fractions, (0.025, 0.975))))


def _resampled(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def headline(results: Sequence[ShiftResult]) -> Mapping[str, tuple[float, int]]:
    """Return, by kind, the median fraction that recalibration alone wins back.

    It comes with the number of rows that it is over: those in which the shift cost something.
    """
    kinds = sorted({row.kind for row in results})
    fractions = {
        kind: [row.won_back.value for row in results if row.kind == kind and row.won_back]
        for kind in kinds
    }
    return {
        kind: (float(np.median(values)), len(values))
        for kind, values in fractions.items()
        if values
    }
