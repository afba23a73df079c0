"""The weights detector: was the champion built from the model that is registered today?

New weights or a merged adapter make every scale stale with no change of traffic; a digest tells
without a look at either.
"""

from __future__ import annotations

from tasks.records import DetectorResult, Finding, Health


def judge_weights(built_from: str | None, present: str) -> DetectorResult:
    """Compare digests of full-precision graphs; None: the champion's is no longer known."""
    if built_from is None:
        text = (
            "the graph that the champion was built from is no longer stored: "
            "register its model again"
        )
        return DetectorResult(
            "weights", Health.INCONCLUSIVE, (Finding("source", 0.0, 0.0, False, text),), 0
        )
    changed = built_from != present
    if changed:
        text = (
            f"the champion was built from the full-precision graph {built_from[:12]}, "
            f"and {present[:12]} is registered now: its scales were derived for other weights"
        )
    else:
        text = (
            f"the champion was built from the full-precision graph {present[:12]}, "
            "which is still registered"
        )
    finding = Finding("source", float(changed), 0.0, changed, text)
    return DetectorResult("weights", Health.DEGRADED if changed else Health.FINE, (finding,), 1)
