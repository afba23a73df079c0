"""The way from a window's sample to a calibration set, over values alone.

The window loses golden cases, near-duplicates and outliers; the calibration pool anchors what is
left. `tasks.sampling.steps` and the benchmarks call this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tasks.observation.ceilings import Ceilings
from tasks.observation.request_amax import RequestAmax
from tasks.records import GoldenCase, Payload, Request, Sample
from tasks.sampling.calibration import Offer, anchors, offer, settle
from tasks.sampling.judgement import Judgement, covering, judge
from tasks.sampling.quarantine import Quarantined
from tasks.sampling.scrubbing import scrubbed_cases
from tasks.specs.drift import CalibrationSpec

Watch = Callable[[Sequence[Payload]], RequestAmax]
"""Measures each payload's amax at every site: a pass of the instrumented model."""


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """A calibration set, who was kept out of it, and how far its ranges may go."""

    sample: Sample
    quarantined: tuple[Quarantined, ...] = ()
    ceilings: Ceilings = field(default_factory=dict)


def compose(
    window: Sample,
    *,
    pool: Sequence[Request],
    golden: Sequence[GoldenCase],
    rules: CalibrationSpec,
    size: int,
    tenant_share: float,
    watch: Watch,
) -> CalibrationSet:
    """Compose the calibration set of a window's sample; the same values give the same digest.

    Args:
        window: What was drawn of live traffic.
        pool: The calibration pool that the model ships with.
        golden: Cases that no calibration set may hold.
        rules: How the set is chosen; its `size` is passed as the next argument.
        size: Requests of the set, at most.
        tenant_share: The fraction of the live places that one of several tenants may fill.
        watch: Called at most once, with the live payloads and those of the anchors after them.

    Raises:
        BadInput: The pool holds golden cases or none of a guardrail, or nothing is left.
    """
    offered = offer(
        window,
        pool,
        golden=scrubbed_cases(golden, rules.privacy),
        similarity=rules.near_duplicates,
        guardrails=rules.guardrails,
    )
    anchored = anchors(offered, size, rules.anchor_share)
    judged = None
    if offered.live and looks_at_requests(rules):
        judged = _judged(offered, anchored, window, rules, watch)
        offered = offered.without({out.request_id for out in judged.quarantined}, "quarantined")
    order = None
    if judged is not None and rules.selection == "cover":
        order = covering(offered, judged, size - len(anchored), tenant_share)
    sample = settle(
        offered,
        size=size,
        anchor_share=rules.anchor_share,
        tenant_share=tenant_share,
        order=order,
    )
    sample = _weighted(sample, window)
    if judged is None:
        return CalibrationSet(sample)
    return CalibrationSet(sample, judged.quarantined, judged.ceilings)


def looks_at_requests(rules: CalibrationSpec) -> bool:
    """Return whether any rule needs to know what each single request does at the sites."""
    return rules.quarantine or rules.least_support > 0 or rules.selection == "cover"


def _judged(
    offered: Offer,
    anchored: Sequence[Request],
    window: Sample,
    rules: CalibrationSpec,
    watch: Watch,
) -> Judgement:
    amax = watch([request.payload for request in (*offered.live, *anchored)])
    return judge(offered, amax, window.weights, rules)


def _weighted(sample: Sample, window: Sample) -> Sample:
    """Return the sample with the window's weights of the requests that are in it."""
    present = {request.request_id for request in sample.requests}
    weights = {name: weight for name, weight in window.weights.items() if name in present}
    return replace(sample, weights=weights)
