"""How far an attacker with a twentieth of the traffic moves a scale.

It also says what that costs.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import ours, subject
from benchmarks.harness.ours import Candidate
from benchmarks.harness.processes import spread
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.quantization.attacks import FRACTION, NOBODY, attacks, honest_requests
from infra.engines import open_target
from tasks.metrics.embeddings import cosine
from tasks.models.inputs import run_all
from tasks.observation.ceilings import bounded
from tasks.observation.request_amax import watch_amax
from tasks.observation.request_histograms import RequestHistograms, watch_histograms
from tasks.observation.watch import watch
from tasks.quantization.activation.scale_limits import reach
from tasks.quantization.pipeline.candidate import CalibrationEvidence, Champion, quantize
from tasks.quantization.recipe.catalog import find_recipe
from tasks.records import Request, Sample
from tasks.sampling.compose import CalibrationSet, compose
from tasks.sampling.strata import draw
from tasks.specs.spec import CalibrationSpec

SEEDS = range(10, 15)
"""Seeds of the windows, each of traffic drawn anew; no rule was chosen on them."""
RULES = CalibrationSpec()
OFF = CalibrationSpec(near_duplicates=1.0, quarantine=False, least_support=0.0)
"""The rules of an undefended set: strata, tenant cap and anchor alone."""
TENANT_FRACTION = 0.5
RECIPES = ("recalibrate", "recalibrate-mse", "resmooth")
SEARCHED = "resmooth"
"""It chooses smoothing anew: other honest traffic moves what a channel may reach as far as any
attack does, so that what everybody else loses is its goal."""
NOTE = (
    "Scale moves are relative to the champion renewed on the same honest traffic alone, and of "
    "what any channel of a site's input may reach; "
    "fidelity is the mean cosine to full precision on held-out cases. Undefended: strata, tenant "
    "cap and anchor alone."
)


@dataclass(frozen=True, slots=True)
class PoisoningRow:
    """Figures of one attack on one model."""

    model: str = column("model")
    attack: str = column("attack")
    recipe: str = column("recipe")
    undefended: float = column("largest scale move, undefended", ".4f")
    moved: float = column("defended", ".4f")
    site: str = column("of the site")
    lost: float = column("fidelity lost by everyone else", ".6f")
    caught: float = column("attackers set aside", ".2f")
    honest: int = column("honest requests set aside", "d")


@dataclass(frozen=True, slots=True, eq=False)
class PoisonedWindow:
    """A calibration set of one window, and what its requests weigh."""

    rules: CalibrationSpec
    drawn: Sample
    composed: CalibrationSet

    @property
    def quarantined(self) -> frozenset[str]:
        """Return the ids that were set aside."""
        return frozenset(out.request_id for out in self.composed.quarantined)

    @property
    def sampled(self) -> frozenset[str]:
        """Return the ids that were looked at and kept, or set aside."""
        return self.quarantined | {request.request_id for request in self.composed.sample.requests}


def measure(quick: bool) -> ResultTable:
    """Measure every attack on the digits and on MiniLM, over several windows."""
    seeds = SEEDS[:1] if quick else SEEDS
    pieces = [(name, seed) for name in ("minilm", "digits") for seed in seeds]
    workers = 1 if quick else min(len(SEEDS), len(os.sched_getaffinity(0)))
    by_piece = dict(spread(partial(_piece, quick), pieces, workers))
    rows = [
        row
        for name in ("digits", "minilm")
        for row in worst([row for seed in seeds for row in by_piece[name, seed]])
    ]
    title = (
        f"Poisoning: an attacker sends {FRACTION:.0%} of the traffic; "
        f"the worst of {len(seeds)} windows"
    )
    return ResultTable("poisoning", title, rows, goals(rows), (NOTE,))


def _piece(quick: bool, piece: tuple[str, int]) -> list[PoisoningRow]:
    name, seed = piece
    chosen = subject.digits(quick) if name == "digits" else subject.minilm(quick)
    return attacked(chosen, [seed], quick)


def attacked(chosen: Subject, seeds: Sequence[int], quick: bool) -> list[PoisoningRow]:
    """Return the worst of all windows for every attack and recipe."""
    champion, size = ours.quantize(chosen, "int8-smooth"), 128 if quick else 256
    rows: list[PoisoningRow] = []
    for seed in seeds:
        rows += _attacked_window(chosen, champion, np.random.default_rng(seed), size, quick)
    return worst(rows)


def worst(rows: Sequence[PoisoningRow]) -> list[PoisoningRow]:
    """Return the worst row of one model for every attack and recipe."""
    by_attack: dict[tuple[str, str], PoisoningRow] = {}
    for row in rows:
        worst_so_far = by_attack.setdefault((row.attack, row.recipe), row)
        by_attack[row.attack, row.recipe] = _worse(worst_so_far, row)
    return list(by_attack.values())


def goals(rows: Sequence[PoisoningRow]) -> tuple[Goal, ...]:
    """Return the largest move and the largest loss over every attack, for each recipe."""
    goals: list[Goal] = []
    for recipe in RECIPES:
        own = [row for row in rows if row.recipe == recipe and row.attack != NOBODY]
        moved, lost = max(row.moved for row in own), max(row.lost for row in own)
        if recipe != SEARCHED:
            name = f"{recipe}: largest relative move of a scale:"
            goals.append(Goal(name, 0.05, moved, "at most"))
        goals.append(Goal(f"{recipe}: largest fidelity lost:", 0.001, lost, "at most"))
    return tuple(goals)


def _attacked_window(
    chosen: Subject, champion: Candidate, rng: np.random.Generator, size: int, few: bool
) -> list[PoisoningRow]:
    honest = honest_requests(chosen, rng)
    clean = _recalibrated_by(chosen, champion, _windows(chosen, champion, honest, size))
    usual = {recipe: _fidelity(chosen, clean[RULES, recipe]) for recipe in RECIPES}
    rows = []
    for name, requests in attacks(chosen, honest, rng, few).items():
        windows = _windows(chosen, champion, [*honest, *requests], size)
        after = _recalibrated_by(chosen, champion, windows)
        caught, wrong = _set_aside(windows[RULES], {request.request_id for request in requests})
        for recipe in RECIPES:
            site, moved = _largest_move(clean[RULES, recipe], after[RULES, recipe])
            _, undefended = _largest_move(clean[OFF, recipe], after[OFF, recipe])
            lost = usual[recipe] - _fidelity(chosen, after[RULES, recipe])
            rows.append(
                PoisoningRow(
                    chosen.name, name, recipe, undefended, moved, site, lost, caught, wrong
                )
            )
    return rows


def _set_aside(window: PoisonedWindow, attackers: set[str]) -> tuple[float, int]:
    """Return the fraction of the sampled attackers that was set aside, and how many others."""
    sampled = attackers & window.sampled
    caught = len(sampled & window.quarantined) / max(len(sampled), 1)
    return caught, len(window.quarantined - attackers)


def _windows(
    chosen: Subject, champion: Candidate, traffic: Sequence[Request], size: int
) -> Mapping[CalibrationSpec, PoisonedWindow]:
    """Return the calibration sets of the same traffic, by the rules and undefended."""
    drawn = draw(traffic, size=size, tenant_share=TENANT_FRACTION)
    return {
        rules: PoisonedWindow(rules, drawn, _composed(chosen, champion, drawn, rules, size))
        for rules in (OFF, RULES)
    }


def _composed(
    chosen: Subject, champion: Candidate, drawn: Sample, rules: CalibrationSpec, size: int
) -> CalibrationSet:
    scales = _smoothing_scales(champion)
    return compose(
        drawn,
        pool=chosen.pool,
        golden=(),
        rules=rules,
        size=rules.size or size,
        tenant_share=TENANT_FRACTION,
        watch=partial(
            watch_amax, chosen.instrumented, chosen.sites, chosen.inputs, smoothing_scales=scales
        ),
    )


def _recalibrated_by(
    chosen: Subject, champion: Candidate, windows: Mapping[CalibrationSpec, PoisonedWindow]
) -> Mapping[tuple[CalibrationSpec, str], Candidate]:
    """Return the champion's graph with new scales, by rules and recipe."""
    return {
        (rules, recipe): candidate
        for rules, window in windows.items()
        for recipe, candidate in _recalibrated(chosen, champion, window).items()
    }


def _recalibrated(
    chosen: Subject, champion: Candidate, window: PoisonedWindow
) -> Mapping[str, Candidate]:
    """Return the champion renewed on one calibration set, by recipe."""
    payloads = [request.payload for request in window.composed.sample.requests]
    ceilings = window.composed.ceilings
    observed = watch(chosen.instrumented, chosen.sites, chosen.inputs, payloads)
    evidence = CalibrationEvidence(
        chosen.model,
        chosen.sites,
        bounded(observed, ceilings),
        ceilings,
        by_request=_watched_by_champion(chosen, champion, window),
    )
    deployed = Champion(champion.derived.scales, champion.graph)
    largest = window.rules.largest_scale_change if window.rules.quarantine else None
    candidates = {}
    for recipe in RECIPES:
        made = quantize(evidence, find_recipe(recipe), deployed, largest_change=largest)
        candidates[recipe] = Candidate(made.graph, made.derived, champion.clock)
    return candidates


def _watched_by_champion(
    chosen: Subject, champion: Candidate, window: PoisonedWindow
) -> Mapping[str, RequestHistograms]:
    """Return what the champion's quantizers would see of each request of a calibration set."""
    requests, weights = window.composed.sample.requests, window.drawn.weights
    deployed, scales = champion.derived.scales, _smoothing_scales(champion)
    usual = float(np.mean(list(weights.values())))
    return watch_histograms(
        chosen.instrumented,
        tuple(site for site in chosen.sites if site.name in deployed),
        chosen.inputs,
        [request.payload for request in requests],
        scales,
        weights=np.array([weights.get(request.request_id) or usual for request in requests]),
        ceilings=window.composed.ceilings,
        support=window.rules.least_support,
    )


def _smoothing_scales(champion: Candidate) -> dict[str, NDArray[np.float32]]:
    scales = champion.derived.scales
    return {
        name: item.smoothing_scales
        for name, item in scales.items()
        if item.smoothing_scales is not None
    }


def _largest_move(before: Candidate, after: Candidate) -> tuple[str, float]:
    """Return the site whose reach differs the most between two candidates, and by what fraction.

    The reach of a channel is amax times its smoothing scale, which `resmooth` chooses anew.
    """
    old, new = before.derived.scales, after.derived.scales
    moves = {
        name: float(np.abs(reach(new[name]) / reach(old[name]) - 1).max())
        for name in old
        if name in new
    }
    worst = max(moves, key=lambda name: moves[name])
    return worst, moves[worst]


def _fidelity(chosen: Subject, candidate: Candidate) -> float:
    engine = open_target("onnxruntime-cpu").load(candidate.lowered("u8"))
    scores = [
        cosine(chosen.expected[group], run_all(engine, chosen.inputs, cases))
        for group, cases in chosen.held_out.items()
    ]
    return float(np.concatenate(scores).mean())


def _worse(row: PoisoningRow, other: PoisoningRow) -> PoisoningRow:
    moved = max(row, other, key=lambda row: row.moved)
    return replace(
        moved,
        undefended=max(row.undefended, other.undefended),
        lost=max(row.lost, other.lost),
        caught=min(row.caught, other.caught),
        honest=max(row.honest, other.honest),
    )
