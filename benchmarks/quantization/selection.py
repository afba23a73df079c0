"""Calibration requests that are chosen to cover the ranges, beside random ones.

The question is how few do what many do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import ours, subject
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column
from infra.engines import open_target
from infra.engines.port import Engine
from tasks.metrics.embeddings import cosine
from tasks.models.inputs import run_all
from tasks.observation.request_amax import RequestAmax, watch_amax
from tasks.observation.watch import watch
from tasks.quantization.recipe.catalog import find_recipe
from tasks.records import Payload, Request
from tasks.sampling.diversity import cover

CHOSEN = 64
RANDOM = (64, 128, 256)
CANDIDATES = 768
RECIPE = "int8-smooth"
EXPOSURES = (0.5, 1.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class SelectionRow:
    """One way to choose, on one model, over several seeds.

    Low and high are the 2.5th and 97.5th percentile.
    """

    model: str = column("model")
    how: str = column("calibration set")
    cover: float = column("range covered", ".4f")
    cover_low: float = column("low", ".4f")
    cover_high: float = column("high", ".4f")
    quality: float = column("cosine on held-out cases", ".5f")
    low: float = column("low", ".5f")
    high: float = column("high", ".5f")
    least: float = column("least cosine", ".4f")
    seeds: int = column("seeds", "d")


def measure(quick: bool) -> ResultTable:
    """Measure the digits over four exposures, and MiniLM over all its languages."""
    seeds = 2 if quick else 10
    rows = [
        *compare(exposed(subject.digits(quick)), seeds, quick),
        *compare(subject.minilm(quick), seeds, quick),
    ]
    title = (
        f"{CHOSEN} chosen requests beside random ones: {RECIPE}, candidates drawn from one window"
    )
    note = (
        "Range covered: the mean over sites of the set's largest magnitude over that of all "
        "candidates. Cosine to full "
        "precision. Seeds change the candidates and the random draw from them; the choice itself "
        "has no chance in it."
    )
    return ResultTable("selection", title, rows, goals(rows), (note,))


def compare(chosen: Subject, seeds: int, quick: bool) -> list[SelectionRow]:
    """Measure every way to choose, over all seeds."""
    engine, count = chosen.instrumented, 256 if quick else CANDIDATES
    results_by_way: dict[str, list[tuple[float, NDArray[np.float32]]]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        window = [chosen.traffic[place] for place in rng.permutation(len(chosen.traffic))[:count]]
        request_amax = watch_amax(
            engine, chosen.sites, chosen.inputs, [request.payload for request in window]
        )
        ways = {f"{CHOSEN} chosen": cover(request_amax, CHOSEN)}
        ways |= {
            f"{size} random": rng.permutation(len(window))[:size]
            for size in RANDOM
            if size <= len(window)
        }
        for how, rows in ways.items():
            results_by_way.setdefault(how, []).append(
                (_covered(request_amax, rows), _scores(chosen, engine, window, rows))
            )
    return [_row(chosen.name, how, results) for how, results in results_by_way.items()]


def exposed(chosen: Subject) -> Subject:
    """Return the digits at four exposures, as `examples.digits` defines them: pixels multiplied."""
    factors = np.random.default_rng(0).choice(EXPOSURES, len(chosen.traffic))
    traffic = tuple(
        replace(request, payload=np.asarray(request.payload, np.float32) * np.float32(factor))
        for request, factor in zip(chosen.traffic, factors, strict=True)
    )
    return replace(chosen, traffic=traffic)


def goals(rows: Sequence[SelectionRow]) -> tuple[Goal, ...]:
    """Return the goals of 64 chosen requests against 256 random ones.

    They shall cover no less range, and lose no more than a thousandth of quality.
    """
    named = {(row.model, row.how): row for row in rows}
    models = dict.fromkeys(row.model for row in rows)
    few, many = f"{CHOSEN} chosen", f"{max(RANDOM)} random"
    pairs = [(name, named[name, few], named.get((name, many))) for name in models]
    return tuple(
        goal
        for name, mine, other in pairs
        for goal in (
            Goal(
                f"{name}: range of {few} over {many}:",
                1.0,
                mine.cover / other.cover if other else None,
            ),
            Goal(
                f"{name}: cosine lost against {many}:",
                0.001,
                other.quality - mine.quality if other else None,
                "at most",
            ),
        )
    )


def _covered(request_amax: RequestAmax, rows: NDArray[np.intp]) -> float:
    top = request_amax.amax.max(axis=0)
    return float((request_amax.amax[rows].max(axis=0)[top > 0] / top[top > 0]).mean())


def _scores(
    chosen: Subject, engine: Engine, window: Sequence[Request], rows: NDArray[np.intp]
) -> NDArray[np.float32]:
    payloads: list[Payload] = [window[row].payload for row in rows.tolist()]
    observed = watch(engine, chosen.sites, chosen.inputs, payloads)
    candidate = ours.derived(chosen, find_recipe(RECIPE), observed)
    quantized = open_target("onnxruntime-cpu").load(candidate.lowered("u8"))
    return np.concatenate(
        [
            cosine(chosen.expected[group], run_all(quantized, chosen.inputs, cases))
            for group, cases in chosen.held_out.items()
        ]
    )


def _row(
    model: str, how: str, results: Sequence[tuple[float, NDArray[np.float32]]]
) -> SelectionRow:
    covered, means = (
        np.asarray([fraction for fraction, _ in results]),
        np.asarray([scores.mean() for _, scores in results]),
    )
    cover_low, cover_high = np.percentile(covered, (2.5, 97.5))
    low, high = np.percentile(means, (2.5, 97.5))
    least = min(float(scores.min()) for _, scores in results)
    return SelectionRow(
        model,
        how,
        float(covered.mean()),
        float(cover_low),
        float(cover_high),
        float(means.mean()),
        float(low),
        float(high),
        least,
        len(results),
    )
