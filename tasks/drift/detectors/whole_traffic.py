"""All requests of a window's hours beside all that the champion's window held, by exact counts.

They inform: among a million requests any difference is certain, and whether it matters the other
detectors tell.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tasks.drift.detectors.tables import FeatureTable
from tasks.drift.formatting import percent
from tasks.profiles import Profile
from tasks.profiles.frozen import Frozen
from tasks.records import Finding

SUBJECT = "all traffic"


def whole_traffic(reference: Frozen, current: Profile, effect: float) -> tuple[Finding, ...]:
    """Return a summary, then each feature by Cramér's V in the reference's bins.

    Nothing without requests on both sides.
    """
    if not reference.rows or not current.rows:
        return ()
    features = [
        Finding(
            f"{SUBJECT}: {name}",
            table.moved_by,
            effect,
            False,
            f"{name} of all requests: {table.change} "
            f"(Cramér's V {table.moved_by:.2f}, of which {effect:.2f} matters)",
        )
        for name, table in _tables(reference, current).items()
    ]
    return (
        Finding(SUBJECT, current.rows, reference.rows, False, _summary(reference, current)),
        *features,
    )


def _tables(reference: Frozen, current: Profile) -> dict[str, FeatureTable]:
    counted = {}
    for name, binned in reference.numbers.items():
        counts = current.histogram(name, binned.edges)
        if counts.any():
            before, after = (
                float(binned.edges[len(binned.edges) // 2]),
                current.numbers[name].quantile(0.5),
            )
            wide = np.asarray(binned.counts, np.float64), counts.astype(np.float64)
            counted[name] = FeatureTable(*wide, f"median {before:.3g} -> {after:.3g}")
    for name, names in reference.names.items():
        if now := current.counts(name):
            counted[name] = _named(names, now)
    return counted


def _named(before: Mapping[str, int], after: Mapping[str, int]) -> FeatureTable:
    """Count names that the reference knows, and all others in one bin."""
    totals = [max(1, sum(side.values())) for side in (before, after)]
    fractions = {
        name: (before.get(name, 0) / totals[0], after.get(name, 0) / totals[1])
        for name in sorted({*before, *after})
    }
    most = max(fractions, key=lambda name: abs(fractions[name][1] - fractions[name][0]))
    sides = [
        np.array([*(side.get(name, 0) for name in before), 0], np.float64)
        for side in (before, after)
    ]
    sides[1][-1] = sum(after.values()) - sides[1].sum()
    return FeatureTable(
        sides[0], sides[1], f"{most} {percent(fractions[most][0])} -> {percent(fractions[most][1])}"
    )


def _summary(reference: Frozen, current: Profile) -> str:
    text = f"{current.rows} requests in the window's hours, {reference.rows} in the champion's"
    if tenants := current.counts("tenant"):
        largest = next(iter(tenants.values())) / current.rows
        text += f"; {len(tenants)} tenants, the largest with {percent(largest)}"
    if current.redelivered >= 0.005:
        text += f"; {percent(current.redelivered)} delivered again"
    for name, mean in sorted(reference.fourier_features.items()):
        if reference.settings == current.settings.digest and name in current.fourier_features:
            apart = float(np.sum((np.asarray(mean) - current.rff_mean(name)) ** 2))
            text += f"; squared MMD of {name} embeddings {apart:.2g}"
    return text
