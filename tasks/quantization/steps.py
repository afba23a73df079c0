"""The steps of quantization: load, call one function, store.

They take names and digests, never arrays.
"""

import time
from collections.abc import Mapping, Sequence

import onnx

from infra.canonical import Json, canonical, sha256
from infra.engines import open_target
from infra.errors import BadInput
from infra.settings import settings
from infra.stores import layout
from tasks.models.catalog import open_model, where_spread
from tasks.observation.archive import dump_observation
from tasks.observation.ceilings import bounded, parse_ceilings
from tasks.observation.finite import require_finite
from tasks.observation.shards import observe_shards
from tasks.quantization import loading
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.candidate import candidate_facts, candidate_files, quantize
from tasks.quantization.pipeline.losses import measure_losses
from tasks.quantization.pipeline.placement import remaining_loss
from tasks.quantization.pipeline.tuning import tuning_recipe
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.report.pareto import CandidateFigures, Limits
from tasks.quantization.report.runs import RunRecord, candidate_run, climb_run
from tasks.quantization.sensitivity.measure import dump_losses, spread
from tasks.records import CandidateRef, EngineRef, ReleaseRef, SampleRef
from tasks.step import flow_run_id, step

SENSITIVITY_CASES = 12
"""Cases of the calibration set that rank the sites.

MiniLM's rank as on 26 texts (Spearman 0.998), whose ranking is that of 440 (0.997).
"""


@step("observe-calibration-set")
def observe(calibration: SampleRef) -> str:
    """Observe a calibration set once; returns the observation's key."""
    model, store = open_model(calibration.model), settings().store()
    limits = calibration.ceilings
    variant = sha256(canonical(dict(limits)))[:8] if limits else ""
    key = layout.observation(model.name, model.digest, calibration.digest, variant)
    if not store.exists(key):
        loading.require_room(model)
        requests = loading.load_requests(calibration)
        if not requests:
            raise BadInput(
                f"the calibration set {calibration.key} is empty: sample more traffic first"
            )
        spread_to = where_spread(model.name)
        observed = observe_shards(model, calibration.key, len(requests), spread_to)
        ids = [request.request_id for request in requests]
        require_finite(model.sites, observed, ids, where=f"the calibration set of {model.name}")
        store.put(key, dump_observation(bounded(observed, parse_ceilings(limits))))
    return key


@step("measure-sensitivity")
def measure_sensitivity(
    calibration: SampleRef, observation: str, recipe_name: str, others: bool = False
) -> str:
    """Measure what each part alone costs, on some calibration cases; returns the figures' key.

    `others` adds the parts that recipes leave in floating point. Recipes that differ only in the
    sites they exclude share the figures, and so do later runs.
    """
    model, recipe = open_model(calibration.model), find_recipe(recipe_name)
    tuning, store = tuning_recipe(recipe), settings().store()
    named: Mapping[str, Json] = {
        "model": model.digest,
        "observation": observation,
        "recipe": tuning.document(),
        "cases": SENSITIVITY_CASES,
    }
    key = layout.sensitivity(model.name, sha256(canonical(named))[:32], others=others)
    if not store.exists(key):
        loading.require_room(model)
        payloads = [request.payload for request in loading.load_requests(calibration)]
        losses = measure_losses(
            model.graph,
            model.sites,
            loading.load_observation(observation),
            recipe,
            loading.load_tuned(model.name, model.digest, observation, tuning, None),
            model.inputs,
            model.spec.task,
            spread(payloads, SENSITIVITY_CASES),
            others=others,
        )
        store.put(key, dump_losses(losses))
    return key


def loss_left(model_name: str, losses: str, recipe_name: str) -> float:
    """Return the fraction of the measured losses that a recipe's quantized sites keep, 0..1."""
    model, measured = open_model(model_name), loading.load_losses(losses)
    return remaining_loss(model.graph, model.sites, measured.parts, find_recipe(recipe_name))


@step("write-qdq-graph")
def write_graph(
    calibration: SampleRef,
    observation: str,
    recipe_name: str,
    champion: ReleaseRef | None,
    losses: str | None = None,
    allow_scale_change: bool = False,
) -> CandidateRef:
    """Write the Q/DQ graph of a recipe, stored as a candidate: the same inputs give the same one.

    `losses` is a key from `measure_sensitivity`; without it, sites are ranked by their local
    errors. Where the champion's graph is kept, so are its measured losses, and no scale leaves the
    spec's `calibration.largest_scale_change` unless a person allowed it.
    """
    model, recipe = open_model(calibration.model), find_recipe(recipe_name)
    change = None if allow_scale_change else model.spec.calibration.largest_scale_change
    name = loading.candidate_id(model, recipe, observation, champion, losses, change)
    facts = loading.load_facts(layout.candidate_file(model.name, name, "candidate.json"))
    if facts is None:
        loading.require_room_for(model, recipe)
        by_request = loading.watch_by_champion(model, calibration, observation, recipe, champion)
        tuning = (model.name, model.digest, observation, tuning_recipe(recipe), champion)
        tuned = loading.load_tuned(*tuning, by_request) if recipe.quantized else None
        evidence = loading.load_evidence(model, calibration, observation, recipe, losses)
        deployed = loading.load_champion(champion, model.digest if recipe.keeps_graph else None)
        candidate = quantize(evidence, recipe, deployed, tuned, change)
        facts = candidate_facts(candidate, recipe, model.digest, calibration.digest, observation)
        for file, data in candidate_files(candidate, facts).items():
            settings().store().put(layout.candidate_file(model.name, name, file), data)
    return CandidateRef(
        model.name,
        name,
        recipe.name,
        facts["calibration"],
        tuple(facts["kept_high"]),
        facts["quantized_share"],
        tuple(facts.get("remarks", ())),
    )


@step("build-engine")
def build_engine(candidate: CandidateRef, target_name: str) -> EngineRef:
    """Lower the candidate's graph for one target and compile it."""
    store, target = settings().store(), open_target(target_name)
    reason = target.why_not_executable()
    folder = candidate.key(f"engines/{target_name}")
    if store.exists(f"{folder}/layers.json"):
        size = len(store.get(f"{folder}/plan"))
        return EngineRef(target_name, size, 0.0, reason is None, reason or "")
    started = time.perf_counter()
    model = open_model(candidate.model)
    graph = onnx.load_from_string(store.get(candidate.key("graph.onnx")))
    built = target.build(lower(graph, target.form).SerializeToString(), model.inputs.profile)
    store.put(f"{folder}/plan", built.plan)
    if built.metadata is not None:
        store.put(f"{folder}/plan.json", built.metadata)
    store.put(f"{folder}/layers.json", built.layers)
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
    """Record one run for the climb and a child run for each candidate; returns the climb's id."""
    model, store = calibration.model, settings().store()
    climb = climb_run(model, window, calibration.digest, figures, limits, reason, flow_run_id())
    for name, data in climb.artifacts.items():
        store.put(layout.report(model, window, name), data)
    parent = _log(model, climb)
    for candidate, reached in zip(candidates, figures, strict=True):
        facts = loading.load_facts(candidate.key("candidate.json")) or {}
        _log(model, candidate_run(candidate, find_recipe(reached.name), reached, facts), parent)
    return parent


def _log(model: str, run: RunRecord, parent: str | None = None) -> str:
    return (
        settings()
        .registry()
        .log_run(model, run.name, run.params, run.metrics, run.tags, run.artifacts, parent)
    )


def is_quantized(champion: ReleaseRef | None) -> bool:
    """Return whether a champion's graph could be kept; a full-precision fallback has none."""
    deployed = loading.load_champion(champion)
    return deployed is not None and bool(deployed.scales)
