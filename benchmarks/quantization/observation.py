"""What observing costs: the observer pass against a plain forward pass.

Costs are time, memory, and how both grow with the set.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import pairs, subject
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.quantization import memory
from infra.engines import open_target
from tasks.graphs.sites import expose
from tasks.models.inputs import run_all
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.observer import SiteObservation
from tasks.observation.watch import watch
from tasks.quantization.activation.ranges import amax
from tasks.quantization.recipe.schemes import RangeRule
from tasks.records import Payload

PLAIN, OBSERVED = "FP32 forward pass", "the same with every site observed"
HISTOGRAM, AMAX = "ExponentHistogram.of: every range rule", "np.abs(x).max(): the max rule only"
BINNED = "np.histogram(np.abs(x), 2048, range): its range must be known"
RULES = "every range rule at every site, from the histograms"
SHAPE = (16, 128, 1536)
"""One batch of the widest site of MiniLM."""
SETS = (128, 512, 2048)
"""Cases, drawn from all languages of the traffic."""


@dataclass(frozen=True, slots=True)
class ObservationRow:
    """Figures of one way to look at the same data."""

    name: str = column("what")
    seconds: float | None = column("s", ".3f")
    per_case: float | None = column("ms a case", ".2f")
    nanoseconds: float | None = column("ns an element", ".2f")
    megabytes: float | None = column("peak MB", ".0f")
    ratio: float | None = column("ratio to the first", ".2f")


def measure(quick: bool) -> ResultTable:
    """Measure MiniLM over its calibration set, and over larger ones."""
    chosen = subject.minilm(quick)
    table = compare(chosen, (4, *SHAPE[1:]) if quick else SHAPE, rounds=3 if quick else 9)
    peaks = memory.peaks(quick)
    rows = [
        replace(row, megabytes=peaks[{PLAIN: memory.PLAIN, OBSERVED: memory.OBSERVED}[row.name]])
        if row.name in (PLAIN, OBSERVED)
        else row
        for row in table.rows
    ]
    grown = growth(chosen, SETS[:2] if quick else SETS)
    goals = (
        *table.goals,
        Goal(
            "peak memory of the observed pass, times the plain pass:",
            1.2,
            peaks[memory.OBSERVED] / peaks[memory.PLAIN],
            "at most",
        ),
        Goal(
            "time a case of the largest set, times the smallest set's:",
            1.1,
            (grown[-1].per_case or 0.0) / (grown[0].per_case or 1.0),
            "at most",
        ),
    )
    return replace(table, rows=[*rows, *grown], goals=goals)


def compare(chosen: Subject, shape: tuple[int, ...], rounds: int) -> ResultTable:
    """Measure both passes in interleaved rounds, then the range rules, then three reductions.

    The reductions are of one array.
    """
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    observed = _observed(chosen)
    plain = partial(run_all, chosen.reference, chosen.inputs, chosen.calibration)
    passes = pairs.interleave({PLAIN: plain, OBSERVED: observed}, rounds, repeats=1)
    reductions = pairs.interleave(_reductions(values), rounds * 3, repeats=1)
    cases = len(chosen.calibration)
    rows = [
        _row(name, passes.median(name), cases=cases, ratio=passes.ratio(name, PLAIN)[0])
        for name in passes.seconds
    ]
    observation = observed()
    rules = float(
        np.median([pairs.timed(partial(_every_rule, observation)) for _ in range(rounds)])
    )
    rows.append(_row(RULES, rules))
    rows += [
        _row(
            name,
            None,
            reductions.median(name) / values.size * 1e9,
            ratio=reductions.ratio(name, HISTOGRAM)[0],
        )
        for name in reductions.seconds
    ]
    elements = sum(item.histogram.total for item in observation.values())
    note = (
        f"{chosen.name}: {cases} cases, {len(chosen.sites)} sites, {elements / 1e6:.1f} M elements."
    )
    goals = (
        Goal(
            "time of the observed pass, times the plain pass:",
            1.3,
            passes.ratio(OBSERVED, PLAIN)[0],
            "at most",
        ),
        Goal("seconds of every range rule together:", 2.0, rules, "at most"),
    )
    return ResultTable("observation", "The cost of observing", rows, goals, (note,))


def growth(chosen: Subject, sizes: Sequence[int]) -> list[ObservationRow]:
    """Measure the observed pass over sets of one distribution and several sizes.

    The time for a case should not change.
    """
    languages = sorted({row.language for row in chosen.traffic})
    rows = []
    for size in sizes:
        observed = _observed(chosen, subject.draw(chosen.traffic, languages, size))
        if size == sizes[0]:
            observed()
        rows.append(
            _row(f"observed, {size} cases of all languages", pairs.timed(observed), cases=size)
        )
    return rows


def _row(
    name: str,
    seconds: float | None,
    nanoseconds: float | None = None,
    *,
    cases: int | None = None,
    ratio: float | None = None,
) -> ObservationRow:
    return ObservationRow(
        name,
        seconds,
        seconds / cases * 1e3 if seconds and cases else None,
        nanoseconds,
        None,
        ratio,
    )


def _observed(
    chosen: Subject, payloads: Sequence[Payload] | None = None
) -> Callable[[], Mapping[str, SiteObservation]]:
    instrumented = open_target("onnxruntime-cpu").load(
        expose(chosen.model, chosen.sites).SerializeToString()
    )
    return lambda: watch(instrumented, chosen.sites, chosen.inputs, payloads or chosen.calibration)


def _every_rule(observation: Mapping[str, SiteObservation]) -> list[float]:
    return [amax(item.histogram, rule) for item in observation.values() for rule in RangeRule]


def _reductions(values: NDArray[np.float32]) -> Mapping[str, Callable[[], object]]:
    top = float(np.abs(values).max())
    return {
        HISTOGRAM: lambda: ExponentHistogram.of(values),
        AMAX: lambda: np.abs(values).max(),
        BINNED: lambda: np.histogram(np.abs(values), 2048, (0.0, top)),
    }
