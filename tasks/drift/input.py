"""The input lens: do requests look different from those of the reference window?

A large sample makes any difference significant, so a feature has moved only when the difference is also large.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]  # ships no types

from tasks.drift.features import features
from tasks.records import Finding, Health, LensReading, Request

ALPHA = 0.01
"""False discovery rate across the features of one look."""
EFFECT = 0.2
"""Cramér's V that matters: 10 % of traffic turned to a new language, or a shift by half a standard deviation."""
MINIMUM = 20
"""Requests on each side."""
_BINS = 10
_EXPECTED = 5  # rows that a category must hold over both samples, for chi-square to be an approximation
_TIED = 0.05  # share of equal values that makes a bin of its own


def input_lens(
    reference: Sequence[Request],
    current: Sequence[Request],
    *,
    alpha: float = ALPHA,
    effect: float = EFFECT,
    minimum: int = MINIMUM,
) -> LensReading:
    """Compare two samples feature by feature; degraded means that at least one has moved.

    Chi-square on bins that the reference alone decides, Benjamini-Hochberg over the features (1995), and
    bias-corrected Cramér's V (Bergsma, 2013) as the size of the difference. Raises `BadInput` on mixed inputs.
    """
    if min(len(reference), len(current)) < minimum:
        return _too_few(len(reference), len(current), minimum)
    tables = _tables(reference, current)
    tests = {name: _test(table.counts) for name, table in tables.items()}
    adjusted = stats.false_discovery_control([p for p, _ in tests.values()])
    findings = tuple(
        _finding(name, tables[name], float(p), tests[name][1], alpha, effect)
        for name, p in zip(tests, adjusted, strict=True)
    )
    moved = any(finding.exceeded for finding in findings)
    return LensReading("input", Health.DEGRADED if moved else Health.FINE, findings, len(current))


def _too_few(reference: int, current: int, minimum: int) -> LensReading:
    text = f"{reference} reference and {current} current requests: {minimum} of each are needed to compare them"
    finding = Finding("requests", min(reference, current), minimum, False, text)
    return LensReading("input", Health.INCONCLUSIVE, (finding,), current)


@dataclass(frozen=True, slots=True)
class _Table:
    counts: NDArray[np.float64]  # [2, bins]: reference, current
    change: str  # "median 12 -> 480", "ru 2 % -> 48 %"


def _tables(reference: Sequence[Request], current: Sequence[Request]) -> dict[str, _Table]:
    before, after = features(reference), features(current)
    tables = {name: _binned(values, after.numeric[name]) for name, values in before.numeric.items()}
    return tables | {name: _counted(values, after.categories[name]) for name, values in before.categories.items()}


def _binned(reference: NDArray[np.float64], current: NDArray[np.float64]) -> _Table:
    edges = _edges(reference)
    counts = [
        np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        for values in (reference, current)
    ]
    return _Table(np.array(counts, np.float64), f"median {np.median(reference):.3g} -> {np.median(current):.3g}")


def _edges(reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inner edges: quantiles of the reference, and a bin of its own for a value that many requests share."""
    bins = int(np.clip(len(reference) // _EXPECTED, 2, _BINS))
    edges = np.unique(np.quantile(reference, np.arange(1, bins) / bins))
    tied = [edge for edge in edges if np.mean(reference == edge) >= _TIED]
    return np.unique(np.concatenate([edges, np.nextafter(tied, np.inf)]))


def _counted(reference: Sequence[str], current: Sequence[str]) -> _Table:
    before, after = Counter(reference), Counter(current)
    names = sorted({*before, *after})
    common = [name for name in names if before[name] + after[name] >= 2 * _EXPECTED]
    rare = [name for name in names if name not in common]
    rows = [[*(side[name] for name in common), sum(side[name] for name in rare)] for side in (before, after)]
    most = max(names, key=lambda name: abs(after[name] / after.total() - before[name] / before.total()))
    change = f"{most} {_percent(before[most] / before.total())} -> {_percent(after[most] / after.total())}"
    return _Table(np.array(rows, np.float64), change)


def _test(counts: NDArray[np.float64]) -> tuple[float, float]:
    """The p-value and Cramér's V of a table [2, bins]; (1, 0) when there is only one bin."""
    used = counts[:, counts.sum(axis=0) > 0]
    columns = used.shape[1]
    if columns < 2:
        return 1.0, 0.0
    statistic, p, _, _ = stats.chi2_contingency(used, correction=False)
    total = used.sum()
    # Bergsma's correction: without it, small samples show a V of 0.2 where nothing moved.
    phi = max(0.0, statistic / total - (columns - 1) / (total - 1))
    smaller = min(columns - (columns - 1) ** 2 / (total - 1), 2 - 1 / (total - 1)) - 1
    return float(p), float(min(1.0, np.sqrt(phi / smaller))) if smaller > 0 else 0.0


def _finding(name: str, table: _Table, p: float, v: float, alpha: float, effect: float) -> Finding:
    moved = p < alpha and v >= effect
    verb = "moved" if moved else "did not move"
    text = f"{name} {verb}: {table.change} (Cramér's V {v:.2f}, limit {effect:.2f}; adjusted p {p:.2g})"
    return Finding(name, v, effect, moved, text)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
