"""The drift detectors on one window of shifted traffic, as `tasks/drift/steps.py` looks through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.kinds import Scores
from benchmarks.evidence.quality import quality, right
from benchmarks.evidence.scene import SeededModel
from benchmarks.harness.ours import Candidate
from infra.engines import open_target
from tasks.drift.decision import decide
from tasks.drift.detectors.control import control_increments, judge_control
from tasks.drift.detectors.fidelity import judge_fidelity
from tasks.drift.detectors.input import judge_inputs
from tasks.drift.detectors.labelled import ENOUGH
from tasks.drift.detectors.range import judge_ranges
from tasks.drift.detectors.weights import judge_weights
from tasks.drift.evidence import ACTING, Alarms, Evidence, with_window
from tasks.graphs.sites import expose
from tasks.observation.clipped_fraction import watch_clipping
from tasks.records import Decision, DetectorResult, Request

if TYPE_CHECKING:
    from benchmarks.evidence.trial import Repairs

RULES = Alarms(1000.0 * ACTING)


def decide_window(
    scene: SeededModel, repairs: Repairs, champion: Candidate, lost: Scores, *, changed: bool
) -> Decision:
    """The decision about one window; `lost` is what the champion loses on it, `changed` whether weights did."""
    kind = repairs.kind
    results = (
        judge_weights("a" * 12, ("b" if changed else "a") * 12),
        judge_inputs(scene.calibration, repairs.window, rules=Alarms()),
        _ranges(repairs, champion),
        judge_fidelity(
            1 - lost,
            groups_of(repairs.window),
            limit=lambda _: 1 - kind.budget,
            metric="fidelity",
            rules=RULES,
        ),
        _control(repairs),
    )
    return decide(results, window_digest="")


def groups_of(requests: Sequence[Request]) -> dict[str, NDArray[np.bool_]]:
    """All of them, and each domain and language."""
    masks = {"all": np.ones(len(requests), bool)}
    for field in ("domain", "language"):
        values = np.array([getattr(one, field) for one in requests])
        masks |= {f"{field}={value}": values == value for value in sorted(set(values.tolist()))}
    return masks


def _ranges(repairs: Repairs, champion: Candidate) -> DetectorResult:
    scales, subject = champion.derived.scales, repairs.kind.subject
    smoothing_scales = {
        name: one.smoothing_scales
        for name, one in scales.items()
        if one.smoothing_scales is not None
    }
    amax = {name: one.amax for name, one in scales.items()}
    engine = open_target("onnxruntime-cpu").load(
        expose(subject.model, subject.sites).SerializeToString()
    )
    sites = tuple(site for site in subject.sites if site.name in scales)
    seen, clipping = watch_clipping(
        engine, sites, subject.inputs, repairs.payloads, amax, smoothing_scales
    )
    return judge_ranges(
        {name: one.histogram for name, one in seen.items()},
        champion.derived.reference,
        amax,
        clipping,
        minimum=subject.spec.window.minimum_rows,
        sensitivity={
            one.site: one.loss for one in champion.derived.ranking if one.loss is not None
        },
        rules=RULES,
    )


def _control(repairs: Repairs) -> DetectorResult:
    """Labelled live requests as evidence; where a single label says nothing, golden cases like them.

    A language model's exact answers take too long to generate here: its control stays inconclusive.
    """
    kind = repairs.kind
    rule = kind.subject.spec.control
    pairs = list(zip(repairs.window, repairs.payloads, strict=True))
    labelled = right(kind, repairs.reference, pairs)
    floor = rule.at_least if rule and rule.metric != "exact-match" else None
    if len(labelled) >= ENOUGH and floor is not None:
        evidence = with_window(Evidence(), "", None, control_increments(labelled, floor), RULES)
        return judge_control(
            labelled, metric=kind.quality, floor=floor, evidence=evidence, rules=RULES
        )
    golden = quality(kind, repairs.reference, repairs.judged) if floor is not None else np.zeros(0)
    return judge_control(golden, metric=kind.quality, floor=floor)
