"""From an observation to a candidate: its graph, its scales, and what is recorded of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from infra.canonical import Json, canonical
from tasks.graphs.coverage import stored_shorter
from tasks.graphs.short_floats import float32_notes
from tasks.graphs.sites import Site
from tasks.models.language.layout import CacheLayout
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.archive import dump_observation
from tasks.observation.ceilings import Ceilings
from tasks.observation.observer import SiteObservation
from tasks.observation.request_histograms import RequestHistograms
from tasks.observation.scales import Scales, dump_scales
from tasks.quantization.activation.scale_limits import limit_diagnostics
from tasks.quantization.graph import qdq
from tasks.quantization.graph.kv_cache import (
    cache_changes,
    cache_saving,
    cache_scales,
    limited_scales,
    renew_cache,
    stored_scales,
    write_cache,
)
from tasks.quantization.pipeline.derive import Derived, derive
from tasks.quantization.pipeline.integer_kernels import IntegerKernels
from tasks.quantization.pipeline.mean_errors import MeanErrors
from tasks.quantization.pipeline.placement import placements
from tasks.quantization.pipeline.results import (
    limited_results,
    result_quantizers,
)
from tasks.quantization.pipeline.tuning import Tuned
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import RangeRule
from tasks.quantization.recipe.submodules import submodules
from tasks.quantization.report.placements import documented
from tasks.quantization.sensitivity.integer_placement import (
    IntegerPlacement,
    KernelEvidence,
    recorded_tolerance,
)
from tasks.quantization.sensitivity.measure import Losses, by_submodule, recorded_losses


@dataclass(frozen=True, slots=True, eq=False)
class Champion:
    """The quantized graph that is deployed."""

    scales: Scales
    graph: onnx.ModelProto | None = None  # None: it was made of other weights than these
    facts: Mapping[str, Json] = field(default_factory=dict)  # those that stay true of its graph
    results: Scales = field(default_factory=dict)  # by tensor, for one target alone


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationEvidence:
    """What calibration tells of one model."""

    model: onnx.ModelProto
    sites: tuple[Site, ...]
    observed: Mapping[str, SiteObservation]
    ceilings: Ceilings = field(default_factory=dict)
    losses: Losses | None = None  # of each site alone, where that was measured
    # What the champion's quantizers would have seen of each request, for rules that weigh it.
    by_request: Mapping[str, RequestHistograms] | None = None
    # A pass with more rows, for recipes that learn from many: the few serve the search as well.
    many_rows: Mapping[str, SiteObservation] | None = None
    keys_and_values: CacheEvidence | None = None
    kernels: KernelEvidence | None = None  # where a target computes whole regions in integers


@dataclass(frozen=True, slots=True, eq=False)
class CacheEvidence:
    """What full precision's keys and values were on the calibration set."""

    layout: CacheLayout
    ranges: Mapping[str, ExponentHistogram]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedGraph:
    """What one recipe made."""

    graph: onnx.ModelProto  # S8 Q/DQ
    derived: Derived
    measures: Mapping[str, Json]  # what each submodule and each placement costs
    quantized_share: float  # fraction of the graph's float32 numbers that it has in fewer bits


def quantize(
    evidence: CalibrationEvidence,
    recipe: Recipe,
    champion: Champion | None = None,
    tuned: Tuned | None = None,
    largest_change: float | None = None,
) -> QuantizedGraph:
    """Derive scales by the recipe, then write the Q/DQ graph.

    A recalibration patches the champion's graph, where that was made of the same weights; every
    other recipe writes a new one (ADR 4 and 32). New smoothing keeps the champion's placement.

    Args:
        evidence: What calibration tells.
        recipe: What is to be done.
        champion: What is deployed, where that is quantized.
        tuned: The search, where a recipe before has made it.
        largest_change: Bounds what a recalibration may do to the champion's scales.
    """
    facts = champion.facts if champion and recipe.starts_from_champion else {}
    losses = evidence.losses.parts if evidence.losses else _recorded(recipe, facts)
    derived = derive(
        evidence.model,
        evidence.sites,
        evidence.many_rows or evidence.observed,
        recipe,
        champion.scales if champion else None,
        tuned,
        losses,
        largest_change,
        evidence.ceilings,
        evidence.by_request,
    )
    tolerance = recorded_tolerance(facts.get("integer_placement"))
    if recipe.keeps_graph and tolerance is not None:
        derived = _clipped_again(evidence, recipe, derived, tolerance)
    if recipe.starts_from_champion and champion:
        derived = _within_reach(derived, champion.results, largest_change)
    placed = {"integer_placement": facts.get("integer_placement")}
    errors = None
    if evidence.kernels is not None and derived.results:
        errors = MeanErrors(evidence.model, derived.plan, evidence.kernels)
        if not recipe.keeps_graph:
            kernels = IntegerKernels(
                evidence.model, derived.plan, evidence.observed, recipe, evidence.kernels, errors
            )
            derived, placement = _with_integers_placed(kernels, derived)
            placed["integer_placement"] = placement.document()
    graph = _written(evidence, recipe, derived, champion)
    if errors is not None:
        graph, sentences = errors.corrected(graph)
        derived = replace(derived, diagnostics=(*derived.diagnostics, *sentences))
    if evidence.keys_and_values is not None:
        before = champion.graph if champion and recipe.starts_from_champion else None
        graph, sentences = _with_cache(graph, evidence.keys_and_values, before, largest_change)
        derived = replace(derived, diagnostics=(*derived.diagnostics, *sentences))
    derived = replace(derived, diagnostics=(*derived.diagnostics, *float32_notes(graph)))
    # Losses of the champion's quantizers choose what is kept high, and say nothing of new ones.
    measured = replace(evidence, losses=None) if recipe.drifting_sites else evidence
    fraction = stored_shorter(evidence.model, graph)
    measures = {**placed, **_measures(measured, facts)}
    return QuantizedGraph(graph, derived, measures, fraction)


def _clipped_again(
    evidence: CalibrationEvidence, recipe: Recipe, derived: Derived, tolerance: float
) -> Derived:
    """Clip what layers make as the champion does."""
    args = (evidence.model, derived.plan, evidence.observed, recipe)
    results = result_quantizers(*args, tolerance=tolerance)
    return replace(derived, plan=replace(derived.plan, results=results))


def _recorded(recipe: Recipe, facts: Mapping[str, Json]) -> Mapping[str, float] | None:
    return None if recipe.drifting_sites else recorded_losses(facts.get("sensitivity"))


def _with_integers_placed(
    kernels: IntegerKernels, derived: Derived
) -> tuple[Derived, IntegerPlacement]:
    """Measure which convolutions gain by INT8 on the target that takes a choice."""
    plan, placement = kernels.placed()
    diagnostics = (*derived.diagnostics, *placement.sentences)
    return replace(derived, plan=plan, diagnostics=diagnostics), placement


def _written(
    evidence: CalibrationEvidence, recipe: Recipe, derived: Derived, champion: Champion | None
) -> onnx.ModelProto:
    if recipe.keeps_graph and champion and champion.graph is not None:
        return qdq.rescale(champion.graph, evidence.sites, derived.scales, derived.results)
    return qdq.write(derived.plan)


def _with_cache(
    graph: onnx.ModelProto,
    cache: CacheEvidence,
    before: onnx.ModelProto | None,
    largest: float | None,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Cache keys and values in INT8; what follows a champion's cache is bound as its sites are.

    A graph that has such a cache already gets new scales for it.
    """
    found = cache_scales(cache.ranges, RangeRule.MAX)
    deployed = stored_scales(before) if before is not None else {}
    scales, held = limited_scales(found, deployed, largest or math.inf)
    write = renew_cache if stored_scales(graph) else write_cache
    sentences = [cache_saving(cache.layout)]
    if deployed:
        sentences.append(cache_changes(scales, deployed))
    named = {f"the cache's {name}": change for name, change in held.items()}
    return write(graph, scales), (*sentences, *limit_diagnostics(named, largest))


def _within_reach(derived: Derived, deployed: Scales, largest: float | None) -> Derived:
    """Bound what a recalibration does to the quantizers of one target, as to the sites'.

    Those that calibration told nothing of stay.
    """
    renewed = {name: item for name, item in derived.results.items() if name in deployed}
    results = {**deployed, **renewed}
    limited = limited_results(results, deployed, largest or math.inf)
    return replace(derived, plan=replace(derived.plan, results=limited))


def _measures(evidence: CalibrationEvidence, facts: Mapping[str, Json]) -> Mapping[str, Json]:
    """Tell what was measured now, or else of the champion whose graph is kept."""
    if evidence.losses is None:
        return {name: facts.get(name, []) for name in ("submodules", "placements")}
    points = placements(evidence.model, evidence.sites, evidence.losses.parts)
    return {
        "submodules": submodule_losses(evidence.sites, evidence.losses),
        "placements": documented(points),
    }


def submodule_losses(sites: tuple[Site, ...], losses: Losses) -> Sequence[Json]:
    """Return what each part of the network costs, as a candidate's facts hold it."""
    return [asdict(group) for group in by_submodule(losses, submodules(sites))]


def candidate_facts(
    made: QuantizedGraph,
    recipe: Recipe,
    model: str,
    calibration: str,
    observation: str,
    graph_recipe: str | None = None,
) -> dict[str, Any]:
    """Return what is recorded of a candidate, with what it follows from.

    Model and calibration set are named by their digests, the observation by its key.
    `graph_recipe` is what chose weights and placement, where that was the champion's recipe.
    """
    derived = made.derived
    return {
        "version": 1,
        "model": model,
        "calibration": calibration,
        "observation": observation,
        "recipe": recipe.document(),
        "graph_recipe": graph_recipe or recipe.name,
        # Stored keys keep their older words: excluded nodes and diagnostics.
        "kept_high": list(derived.excluded_nodes),
        "quantized_share": made.quantized_share,
        "remarks": list(derived.diagnostics),
        "sensitivity": [asdict(item) for item in derived.ranking],
        **made.measures,
    }


def candidate_files(made: QuantizedGraph, facts: Mapping[str, Json]) -> dict[str, bytes]:
    """Return what is stored of a candidate.

    The facts come last: a candidate without them is incomplete and is written again.
    """
    derived, nothing = made.derived, np.zeros(0, np.float32)
    no_rows = np.zeros((0, 0), np.float32)
    reference = {
        name: SiteObservation(item, nothing, nothing, no_rows)
        for name, item in derived.reference.items()
    }
    return {
        "graph.onnx": made.graph.SerializeToString(deterministic=True),
        "scales.json": dump_scales(derived.scales, derived.results),
        "ranges.npz": dump_observation(reference),
        "candidate.json": canonical(facts),
    }
