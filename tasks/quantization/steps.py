"""The steps of quantization: load, call one pure function, record. They take names and digests, never arrays."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx

from infra.canonical import Json, canonical, sha256
from infra.engines import open_target
from infra.errors import BadInput, NotFound
from infra.identifiers import Digest
from infra.processes.memory import require_memory
from infra.settings import settings
from infra.stores import layout
from tasks.graphs.memory import footprint
from tasks.models.batches import BATCH
from tasks.models.catalog import RegisteredModel, open_model, where_spread
from tasks.models.inputs import language_inputs
from tasks.numerics.formats import NumberFormat
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.archive import dump_observation, parse_observation
from tasks.observation.ceilings import bounded, parse_ceilings
from tasks.observation.finite import require_finite
from tasks.observation.observer import MANY_ROWS, ROWS, SiteObservation
from tasks.observation.request_histograms import dump_histograms, parse_histograms, watch_histograms
from tasks.observation.scales import Scales, dump_scales, parse_scales
from tasks.observation.shards import observe_shards
from tasks.observation.watch import watch
from tasks.quantization.activation.ranges import RangeRule
from tasks.quantization.derive import Derived, Tuned, derive, site_costs, tune
from tasks.quantization.graph import qdq
from tasks.quantization.graph.assemble import assemble
from tasks.quantization.graph.kv_cache import cache_scales, observe_cache, told_saving, write_cache
from tasks.quantization.graph.lowering import lower
from tasks.quantization.recipe.catalog import Recipe, Rounding, find_recipe
from tasks.quantization.recipe.ladder import chooses_sites
from tasks.quantization.recipe.submodules import submodules
from tasks.quantization.report.pareto import CandidateFigures, Limits, draw_html, draw_png
from tasks.quantization.report.placements import documented, draw_placements
from tasks.quantization.sensitivity import measure as sensitivity
from tasks.quantization.sensitivity import mixed_precision as mixed
from tasks.quantization.sensitivity.measure import Losses
from tasks.quantization.sensitivity.toggled_graph import install
from tasks.records import CandidateRef, EngineRef, ReleaseRef, SampleRef
from tasks.step import flow_run_id, step
from tasks.traffic import from_parquet
from tasks.traffic.storage.sample_weights import weights_of

SENSITIVITY_CASES = 12
"""Of the calibration set: MiniLM's sites rank as on 26 texts (Spearman 0.998), whose ranking is that of 440 (0.997)."""

TUNING_VERSION = 5
"""Raised when the search for quantizers changes; a recipe's own version also tells of what is done with the weights."""


@step("observe-calibration-set")
def observe(calibration: SampleRef) -> str:
    """One observer pass over a calibration set; returns the observation's key. Done before: not done again."""
    model, store = open_model(calibration.model), settings().store()
    limits = calibration.ceilings
    variant = sha256(canonical(dict(limits)))[:8] if limits else ""
    key = layout.observation(model.name, model.digest, calibration.digest, variant)
    if not store.exists(key):
        _require_memory(model)
        requests = from_parquet(
            store.get(calibration.key), where=f"the calibration set {calibration.key}"
        )
        if not requests:
            raise BadInput(
                f"the calibration set {calibration.key} is empty: sample more traffic first"
            )
        observed = observe_shards(model, calibration.key, len(requests), where_spread(model.name))
        ids = [item.request_id for item in requests]
        require_finite(model.sites, observed, ids, where=f"the calibration set of {model.name}")
        store.put(key, dump_observation(bounded(observed, parse_ceilings(limits))))
    return key


@step("measure-sensitivity")
def measure_sensitivity(
    calibration: SampleRef, observation: str, recipe_name: str, others: bool = False
) -> str:
    """What quantizing each part alone does to the output, on some calibration cases; returns the figures' key.

    `others` adds the parts that recipes leave in floating point: they are reported by submodule and choose nothing.
    Recipes that differ only in what they keep high share the figures, and so do later runs.
    """
    model, recipe, store = (
        open_model(calibration.model),
        find_recipe(recipe_name),
        settings().store(),
    )
    named: Mapping[str, Json] = {
        "model": model.digest,
        "observation": observation,
        "recipe": _tuning(recipe).document(),
        "cases": SENSITIVITY_CASES,
    }
    key = layout.sensitivity(model.name, sha256(canonical(named))[:32], others=others)
    if not store.exists(key):
        _require_memory(model)
        requests = from_parquet(
            store.get(calibration.key), where=f"the calibration set {calibration.key}"
        )
        payloads = sensitivity.spread([item.payload for item in requests], SENSITIVITY_CASES)
        observed = parse_observation(store.get(observation), where=f"the observation {observation}")
        tuned = _tuned(model.name, model.digest, observation, _tuning(recipe), None)
        plan = assemble(
            model.graph, model.sites, observed, recipe, tuned.choices, tuned.unknown, folding=False
        )
        toggled = install(plan, others=others)
        engine = open_target("onnxruntime-cpu").load(toggled.graph.SerializeToString())
        losses = sensitivity.measure(engine, model.inputs, model.spec.task, toggled.parts, payloads)
        store.put(key, sensitivity.dump_losses(losses))
    return key


def loss_left(model_name: str, losses: str, recipe_name: str) -> float:
    """The share of the measured losses that a recipe's quantized sites keep, 0..1; without mixed precision all."""
    model, recipe = open_model(model_name), find_recipe(recipe_name)
    measured = sensitivity.parse_losses(settings().store().get(losses), where=losses)
    points = mixed.pareto_front(site_costs(model.graph, model.sites, measured.parts))
    return mixed.keep(points, recipe.high_precision_sites).loss / max(points[0].loss, 1e-30)


@step("write-qdq-graph")
def write_graph(
    calibration: SampleRef,
    observation: str,
    recipe_name: str,
    champion: ReleaseRef | None,
    losses: str | None = None,
    allow_scale_change: bool = False,
) -> CandidateRef:
    """Scales by recipe, then the Q/DQ graph, stored as a candidate. The same inputs give the same candidate.

    `losses` is a key from `measure_sensitivity`; without it, sites are ranked by their local errors. Where the
    champion's graph is kept, so are its measured losses, and no scale leaves the spec's
    `calibration.largest_scale_change` unless a person allowed it.
    """
    model, recipe, store = (
        open_model(calibration.model),
        find_recipe(recipe_name),
        settings().store(),
    )
    change = None if allow_scale_change else model.spec.calibration.largest_scale_change
    candidate_id = _candidate_id(model, recipe, observation, champion, losses, change)
    try:
        facts = json.loads(
            store.get(layout.candidate_file(model.name, candidate_id, "candidate.json"))
        )
    except NotFound:
        kept = MANY_ROWS if recipe.learns_from_many else ROWS
        _require_memory(
            model, hessian=recipe.rounding in (Rounding.GPTQ, Rounding.TRAINED), kept=kept
        )
        observed = parse_observation(store.get(observation), where=f"the observation {observation}")
        deployed = _deployed(champion)
        seen = _seen_by_champion(model, calibration, observation, recipe, champion)
        tuned = (
            _tuned(model.name, model.digest, observation, _tuning(recipe), champion, seen)
            if recipe.quantized
            else None
        )
        if recipe.learns_from_many:  # after the search, which the few rows serve as well
            observed = _more_rows(model, calibration)
        measured = sensitivity.parse_losses(store.get(losses), where=losses) if losses else None
        known = _facts_kept(model, recipe, champion)
        parts = (
            measured.parts if measured else sensitivity.recorded_losses(known.get("sensitivity"))
        )
        derived = derive(
            model.graph,
            model.sites,
            observed,
            recipe,
            deployed,
            tuned,
            parts,
            change,
            parse_ceilings(calibration.ceilings),
        )
        graph = _graph(model, recipe, derived, champion)
        if recipe.kv_cache is NumberFormat.INT8:
            saving = told_saving(language_inputs(model.inputs).layout)
            graph = write_cache(
                graph, cache_scales(_cache_ranges(model, calibration), RangeRule.MAX)
            )
            derived = replace(derived, diagnostics=(*derived.diagnostics, saving))
        measures: dict[str, Json] = {
            name: known.get(name, []) for name in ("submodules", "placements")
        }
        if measured:
            points = mixed.pareto_front(site_costs(model.graph, model.sites, measured.parts))
            measures = {
                "submodules": _submodules(model, measured),
                "placements": documented(points),
            }
        facts = _store(
            model, candidate_id, calibration, observation, recipe, derived, graph, measures
        )
    return CandidateRef(
        model.name,
        candidate_id,
        recipe.name,
        facts["calibration"],
        tuple(facts["kept_high"]),
        facts["quantized_share"],
        tuple(facts.get("remarks", ())),
    )


def _seen_by_champion(
    model: RegisteredModel,
    calibration: SampleRef,
    observation: str,
    recipe: Recipe,
    champion: ReleaseRef | None,
) -> str | None:
    """Where a rule weighs what the champion's quantizers see, a pass through its factors, kept; gives the key."""
    deployed = _deployed(champion) or {}
    if champion is None or not deployed or not recipe.keeps_graph or not recipe.weighs:
        return None
    key = layout.champion_observation(observation, champion.digest)
    store = settings().store()
    if not store.exists(key):
        requests = from_parquet(
            store.get(calibration.key), where=f"the calibration set {calibration.key}"
        )
        factors = {
            name: item.smoothing_scales
            for name, item in deployed.items()
            if item.smoothing_scales is not None
        }
        found = watch_histograms(
            model.instrumented,
            tuple(site for site in model.sites if site.name in deployed),
            model.inputs,
            [one.payload for one in requests],
            factors,
            weights=weights_of(store, calibration.key, requests),
            ceilings=parse_ceilings(calibration.ceilings),
            support=model.spec.calibration.least_support,
        )
        store.put(key, dump_histograms(found))
    return key


def _more_rows(model: RegisteredModel, calibration: SampleRef) -> dict[str, SiteObservation]:
    """A pass over the calibration set that keeps as many rows as GPTQ needs for few bits; they are not stored."""
    requests = from_parquet(
        settings().store().get(calibration.key), where=f"the calibration set {calibration.key}"
    )
    payloads = [item.payload for item in requests]
    found = watch(model.instrumented, model.sites, model.inputs, payloads, rows=MANY_ROWS)
    return bounded(found, parse_ceilings(calibration.ceilings))


def _cache_ranges(
    model: RegisteredModel, calibration: SampleRef
) -> Mapping[str, ExponentHistogram]:
    """Full precision's keys and values on the calibration set."""
    requests = from_parquet(
        settings().store().get(calibration.key), where=f"the calibration set {calibration.key}"
    )
    payloads = [item.payload for item in requests]
    return observe_cache(
        model.reference, language_inputs(model.inputs).layout, model.inputs, payloads
    )


@step("build-engine")
def build_engine(candidate: CandidateRef, target_name: str) -> EngineRef:
    """Lower the candidate's graph for one target and compile it."""
    store, target = settings().store(), open_target(target_name)
    reason = target.why_not_executable()
    plan_key = candidate.key(f"engines/{target_name}/plan")
    if store.exists(candidate.key(f"engines/{target_name}/layers.json")):
        return EngineRef(target_name, len(store.get(plan_key)), 0.0, reason is None, reason or "")
    started = time.perf_counter()
    model = open_model(candidate.model)
    graph = onnx.load_from_string(store.get(candidate.key("graph.onnx")))
    built = target.build(lower(graph, target.form).SerializeToString(), model.inputs.profile)
    store.put(plan_key, built.plan)
    if built.metadata is not None:
        store.put(candidate.key(f"engines/{target_name}/plan.json"), built.metadata)
    store.put(candidate.key(f"engines/{target_name}/layers.json"), built.layers)
    seconds = time.perf_counter() - started
    return EngineRef(target_name, len(built.plan), seconds, reason is None, reason or "")


@step("record-ladder")
def record_ladder(
    calibration: SampleRef,
    window: str,
    candidates: Sequence[CandidateRef],
    figures: Sequence[CandidateFigures],
    limits: Limits,
    reason: str,
) -> str:
    """One MLflow run for the climb, with the front where there is one, and a child run a candidate; returns its id."""
    model, registry = calibration.model, settings().registry()
    pictures = _pictures(f"{model} on {window[:8]}", figures, limits)
    for name, data in pictures.items():
        settings().store().put(layout.report(model, window, name), data)
    promoted = next((one.name for one in figures if one.chosen), "none")
    parent = registry.log_run(
        model,
        f"ladder on {window[:8]}",
        params={"window": window, "calibration": calibration.digest, "reason": reason[:500]},
        metrics={"candidates": len(figures)},
        tags={
            "kind": "ladder",
            "passed": promoted,
            "window": window,
            **({"flow_run": run} if (run := flow_run_id()) else {}),
        },
        artifacts=pictures,
    )
    for candidate, one in zip(candidates, figures, strict=True):
        facts = json.loads(settings().store().get(candidate.key("candidate.json")))
        submodules_lost = {
            f"loss/{group['name']}": group["loss"] for group in facts.get("submodules", [])
        }
        recipe = {
            name: json.dumps(value) for name, value in find_recipe(one.name).document().items()
        }
        ratios = {
            "loss": one.loss,
            "size-ratio": one.size,
            "latency-ratio": one.latency,
            "peak-memory-ratio": one.peak_memory,
        }
        known = {name: value for name, value in ratios.items() if value is not None}
        registry.log_run(
            model,
            one.name,
            params={
                **recipe,
                "candidate": candidate.candidate_id,
                "kept_high": json.dumps(candidate.excluded_nodes),
            },
            metrics={
                **one.metrics,
                **known,
                **submodules_lost,
                "quantized-share": candidate.quantized_share,
            },
            tags={
                "kind": "candidate",
                "verdict": "passed" if one.passed else "refused",
                "why": one.reason[:500],
                "remarks": "; ".join(candidate.diagnostics)[:500],
            },
            artifacts=_placements(f"{model}, {one.name}", facts),
            parent=parent,
        )
    return parent


def _pictures(title: str, figures: Sequence[CandidateFigures], limits: Limits) -> dict[str, bytes]:
    """One candidate is no front."""
    if len(figures) < 2:
        return {}
    return {
        "front.png": draw_png(title, figures, limits),
        "front.html": draw_html(title, figures, limits),
    }


def _placements(title: str, facts: Mapping[str, Any]) -> dict[str, bytes]:
    front = [
        mixed.PrecisionPlacement(tuple(one["kept"]), one["loss"], one["weights"])
        for one in facts.get("placements", [])
    ]
    return draw_placements(title, front, facts["kept_high"])


def _tuning(recipe: Recipe) -> Recipe:
    """The recipe without what does not change its quantizers; AWQ alone among the roundings brings factors."""
    return replace(
        recipe,
        name=recipe.name if recipe.keeps_graph else "tuning",
        summary="",
        rounding=recipe.rounding if recipe.rounding is Rounding.AWQ else Rounding.NEAREST,
        bias_correction=False,
        tables=NumberFormat.FP32,
        trained_sites=0,
        high_precision_sites=0,
        version=TUNING_VERSION,
    )


def _require_memory(model: RegisteredModel, *, hessian: bool = False, kept: int = ROWS) -> None:
    """Before the work begins: the kernel would end it without a word."""
    spec = model.spec.input
    needed = footprint(
        model.graph, model.sites, tokens=spec.max_length, batch=BATCH, hessian=hessian, kept=kept
    ).total
    mend = "free some, lower input.max_length, or run it on a larger machine"
    require_memory(needed, f"quantizing {model.name}", mend)


@lru_cache(maxsize=4)
def _tuned(
    model_name: str,
    digest: str,
    observation: str,
    recipe: Recipe,
    champion: ReleaseRef | None,
    seen: str | None = None,
) -> Tuned:
    """Candidates of one run share the search; the observation and the champion are named by their digests."""
    model = open_model(model_name)
    observed = parse_observation(
        settings().store().get(observation), where=f"the observation {observation}"
    )
    requests = parse_histograms(settings().store().get(seen), where=seen) if seen else None
    return tune(model.graph, model.sites, observed, recipe, _deployed(champion), requests)


def is_quantized(champion: ReleaseRef | None) -> bool:
    """Whether there is a champion whose graph a recalibration could keep; a fallback to full precision has none."""
    return bool(_deployed(champion))


def _candidate_id(
    model: RegisteredModel,
    recipe: Recipe,
    observation: str,
    champion: ReleaseRef | None,
    losses: str | None,
    change: float | None,
) -> Digest:
    """Only a recipe that keeps the champion's graph depends on the champion, and only mixed ones on the ranking."""
    base = champion.digest if champion and recipe.keeps_graph else None
    parts: Mapping[str, Json] = {
        "model": model.digest,
        "recipe": recipe.document(),
        "observation": observation,
        "champion": base,
        "largest_scale_change": change if base else None,
        "losses": losses.replace("-others", "") if losses and chooses_sites(recipe) else None,
    }
    return Digest(sha256(canonical(parts))[:32])


def _deployed(champion: ReleaseRef | None) -> Scales | None:
    if champion is None:
        return None
    release = settings().release(champion.model, champion.digest)
    return parse_scales(
        release.file("scales.json"), where=f"the scales of version {champion.version}"
    )


def _graph(
    model: RegisteredModel, recipe: Recipe, derived: Derived, champion: ReleaseRef | None
) -> onnx.ModelProto:
    """A recalibration patches the champion's graph; every other recipe writes a new one (ADR 4 and 32)."""
    if recipe.keeps_graph and champion is not None:
        release = settings().release(champion.model, champion.digest)
        if release.facts.get("model") == model.digest:
            return qdq.rescale(
                onnx.load_from_string(release.file("graph.onnx")), model.sites, derived.scales
            )
    return qdq.write(derived.plan)


def _facts_kept(
    model: RegisteredModel, recipe: Recipe, champion: ReleaseRef | None
) -> Mapping[str, Json]:
    """What is known of the champion and stays true of its recalibration: nobody measures the same weights again."""
    if champion is None or not recipe.keeps_graph:
        return {}
    facts = settings().release(champion.model, champion.digest).facts
    return facts if facts.get("model") == model.digest else {}


def _submodules(model: RegisteredModel, losses: Losses) -> Sequence[Json]:
    """What each part of the network costs."""
    return [asdict(group) for group in sensitivity.by_submodule(losses, submodules(model.sites))]


def _store(
    model: RegisteredModel,
    candidate_id: str,
    calibration: SampleRef,
    observation: str,
    recipe: Recipe,
    derived: Derived,
    graph: onnx.ModelProto,
    measures: Mapping[str, Json],
) -> dict[str, Json]:
    nothing, no_rows = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
    seen = {
        name: SiteObservation(item, nothing, nothing, no_rows)
        for name, item in derived.reference.items()
    }
    facts: dict[str, Json] = {
        "version": 1,
        "model": model.digest,
        "calibration": calibration.digest,
        "observation": observation,
        "recipe": recipe.document(),
        "kept_high": list(derived.excluded_nodes),
        "quantized_share": derived.quantized_share,
        "remarks": list(derived.diagnostics),
        "sensitivity": [asdict(item) for item in derived.ranking],
        **measures,
    }
    files = {
        "graph.onnx": graph.SerializeToString(deterministic=True),
        "scales.json": dump_scales(derived.scales),
        "ranges.npz": dump_observation(seen),
        "candidate.json": canonical(
            facts
        ),  # last: a candidate without it is incomplete and is written again
    }
    for name, data in files.items():
        settings().store().put(layout.candidate_file(model.name, candidate_id, name), data)
    return facts
