"""Our detectors over a stream of windows: those that act, and the input detector, which only informs."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.drift.windows import Bench, MeasuredWindow
from benchmarks.evidence.detectors import RULES, groups_of
from tasks.drift.decision import outgrown_for_nothing
from tasks.drift.detectors.control import LIVE, control_increments
from tasks.drift.detectors.features import Features, features
from tasks.drift.detectors.fidelity import fidelity_increments, judge_fidelity
from tasks.drift.detectors.input import input_increments, judge_tables
from tasks.drift.detectors.range import judge_ranges, range_increments
from tasks.drift.detectors.tables import FeatureTable, binned, counted, tables
from tasks.drift.evidence import Alarms, Evidence, with_window
from tasks.records import DetectorResult, Health

RECOVER = 0.5
"""Share of its limits to which a stale layer must recover; the default of a spec."""


def acting(bench: Bench, windows: Sequence[MeasuredWindow]) -> list[bool]:
    """Which windows the loop would act on: range, fidelity or control degraded, evidence added up."""
    floor = bench.subject.spec.control.at_least if bench.subject.spec.control else 0.0
    fidelity, control, ranges, stale = Evidence(), Evidence(), Evidence(), tuple[str, ...]()
    found = []
    for number, window in enumerate(windows):
        groups = groups_of(window.requests)
        steps = fidelity_increments(window.scores, groups, lambda _: bench.budget)
        fidelity = with_window(fidelity, str(number), None, steps, RULES)
        if window.correct.size:
            control = with_window(
                control, str(number), None, control_increments(window.correct, floor), RULES
            )
        amax = {name: one.amax for name, one in bench.champion.derived.scales.items()}
        more = range_increments(window.clipping, bench.champion.derived.reference, amax)
        ranges = with_window(ranges, str(number), None, more, RULES)
        result = _ranges(bench, window, stale, ranges)
        stale = tuple(
            one.subject
            for one in result.findings
            if one.exceeded and one.subject.startswith("layer ")
        )
        answers = judge_fidelity(
            window.scores,
            groups,
            limit=lambda _: bench.budget,
            metric="fidelity",
            evidence=fidelity,
            rules=RULES,
        )
        outgrown = result.health is Health.DEGRADED and not outgrown_for_nothing((result, answers))
        found.append(outgrown or answers.health is Health.DEGRADED or LIVE in control.alarmed)
    return found


def _ranges(
    bench: Bench, window: MeasuredWindow, stale: Sequence[str], evidence: Evidence
) -> DetectorResult:
    derived = bench.champion.derived
    return judge_ranges(
        window.sites,
        derived.reference,
        {name: one.amax for name, one in derived.scales.items()},
        window.clipping,
        minimum=bench.subject.spec.window.minimum_rows,
        sensitivity={one.site: one.loss for one in derived.ranking if one.loss is not None},
        held=dict.fromkeys(stale, RECOVER),
        evidence=evidence,
        rules=RULES,
    )


def informing(bench: Bench, windows: Sequence[MeasuredWindow]) -> list[bool]:
    """Which windows the input detector calls moved."""
    before, rules, evidence, found = features(bench.reference), Alarms(), Evidence(), []
    for number, window in enumerate(windows):
        seen = _tables(bench, before, window)
        steps = input_increments(seen, {name: table.current for name, table in seen.items()})
        evidence = with_window(evidence, str(number), None, steps, rules)
        result = judge_tables(seen, evidence, len(window.requests), rules)
        found.append(result.health is Health.DEGRADED)
    return found


def _tables(bench: Bench, before: Features, window: MeasuredWindow) -> dict[str, FeatureTable]:
    """As the detector makes them; tensors have no n-grams, and their reference columns need no second look."""
    if isinstance(window.requests[0].payload, str):
        return tables(bench.reference, window.requests)
    after = features(window.requests)
    found = {name: binned(values, after.numeric[name]) for name, values in before.numeric.items()}
    return found | {
        name: counted(values, after.categories[name]) for name, values in before.categories.items()
    }
