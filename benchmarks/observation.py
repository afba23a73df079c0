"""What watching costs: the observer pass against a plain forward pass, the histogram against single-pass peers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks import pairs, subject
from benchmarks.subject import Subject
from benchmarks.table import Table, column
from infra.engines import open_target
from tasks.models.inputs import run_all
from tasks.observation.histogram import ExponentHistogram
from tasks.observation.observer import SiteObservation
from tasks.observation.sites import expose
from tasks.observation.watch import watch

PLAIN, OBSERVED = "FP32 forward pass", "the same with every site observed"
HISTOGRAM, AMAX = "ExponentHistogram.of: every range rule", "np.abs(x).max(): the max rule only"
BINNED = "np.histogram(np.abs(x), 2048, range): its range must be known"
SHAPE = (16, 128, 1536)
"""One batch of the widest site of MiniLM."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to look at the same data."""

    name: str = column("what")
    seconds: float | None = column("s a calibration set", ".3f")
    nanoseconds: float | None = column("ns an element", ".2f")
    ratio: float = column("ratio to the first", ".2f")


def measure(quick: bool) -> Table:
    """MiniLM over its calibration set."""
    return compare(subject.minilm(quick), (4, *SHAPE[1:]) if quick else SHAPE, rounds=3 if quick else 9)


def compare(chosen: Subject, shape: tuple[int, ...], rounds: int) -> Table:
    """Interleaved rounds of both passes, then of the three reductions on one array."""
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    observed = _observed(chosen)
    plain = partial(run_all, chosen.reference, chosen.inputs, chosen.calibration)
    passes = pairs.interleave({PLAIN: plain, OBSERVED: observed}, rounds, repeats=1)
    reductions = pairs.interleave(_reductions(values), rounds * 3, repeats=1)
    rows = [Row(name, passes.median(name), None, passes.ratio(name, PLAIN)[0]) for name in passes.seconds]
    rows += [
        Row(name, None, reductions.median(name) / values.size * 1e9, reductions.ratio(name, HISTOGRAM)[0])
        for name in reductions.seconds
    ]
    elements = sum(item.histogram.total for item in observed().values())
    note = (
        f"{chosen.name}: {len(chosen.calibration)} cases, {len(chosen.sites)} sites, {elements / 1e6:.1f} M elements."
    )
    return Table("observation", "The cost of observing", rows, (), (note,))


def _observed(chosen: Subject) -> Callable[[], Mapping[str, SiteObservation]]:
    instrumented = open_target("onnxruntime-cpu").load(expose(chosen.model, chosen.sites).SerializeToString())
    return lambda: watch(instrumented, chosen.sites, chosen.inputs, chosen.calibration)


def _reductions(values: NDArray[np.float32]) -> Mapping[str, Callable[[], object]]:
    top = float(np.abs(values).max())
    return {
        HISTOGRAM: lambda: ExponentHistogram.of(values),
        AMAX: lambda: np.abs(values).max(),
        BINNED: lambda: np.histogram(np.abs(values), 2048, (0.0, top)),
    }
