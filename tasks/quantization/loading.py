"""What the steps of quantization load: calibration sets, observations, searches and champions."""

from dataclasses import replace
from functools import lru_cache

import onnx

from infra.engines.port import each_profile
from infra.errors import BadInput
from infra.processes.memory import require_memory
from infra.settings import settings
from infra.stores import layout
from tasks.graphs.memory import deriving_beside, footprint, observing_beside
from tasks.models.batches import BATCH
from tasks.models.catalog import RegisteredModel, open_model
from tasks.models.inputs import language_inputs
from tasks.numerics.formats import NumberFormat
from tasks.observation.archive import parse_observation
from tasks.observation.ceilings import bounded, parse_ceilings
from tasks.observation.observer import MANY_ROWS, ROWS, SiteObservation
from tasks.observation.request_histograms import dump_histograms, parse_histograms, watch_histograms
from tasks.observation.scales import parse_results, parse_scales
from tasks.observation.watch import watch
from tasks.quantization.graph.kv_cache import observe_cache, stored_scales
from tasks.quantization.pipeline.candidate import CacheEvidence, CalibrationEvidence, Champion
from tasks.quantization.pipeline.tuning import Tuned, tune
from tasks.quantization.recipe.catalog import find_recipe, renewed
from tasks.quantization.recipe.ladder import DeployedGraph
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import Gptq, Static, Trained
from tasks.quantization.recipe.targets import ONNXRUNTIME
from tasks.quantization.sensitivity.integer_placement import KernelEvidence
from tasks.quantization.sensitivity.measure import Losses, parse_losses
from tasks.records import ReleaseRef, Request, SampleRef
from tasks.traffic.storage.codec import from_parquet
from tasks.traffic.storage.sample_weights import weights_of


def load_requests(calibration: SampleRef) -> tuple[Request, ...]:
    """Return the calibration set's requests."""
    where = f"the calibration set {calibration.key}"
    return tuple(from_parquet(settings().store().get(calibration.key), where=where))


def load_observation(key: str) -> dict[str, SiteObservation]:
    """Return what every site saw of a calibration set."""
    return parse_observation(settings().store().get(key), where=f"the observation {key}")


def load_losses(key: str) -> Losses:
    """Return what each part alone costs the model's output."""
    return parse_losses(settings().store().get(key), where=key)


def load_champion(champion: ReleaseRef | None, model: str | None = None) -> Champion | None:
    """Return the champion, with graph and facts where it was made of the model of this digest."""
    if champion is None:
        return None
    release = settings().release(champion.model, champion.digest)
    where = f"the scales of version {champion.version}"
    document = release.file("scales.json")
    scales = parse_scales(document, where=where)
    if model is None or release.facts.get("model") != model:
        return Champion(scales)
    graph = onnx.load_from_string(release.file("graph.onnx"))
    return Champion(scales, graph, release.facts, parse_results(document, where=where))


def deployed_graph(champion: ReleaseRef | None, sites: int) -> DeployedGraph | None:
    """Return what there is to renew of a champion; a full-precision fallback has nothing."""
    deployed = load_champion(champion)
    if deployed is None or not deployed.scales:
        return None
    smoothed = any(item.smoothing_scales is not None for item in deployed.scales.values())
    return DeployedGraph(smoothed, graph_recipe(champion), len(deployed.scales) == sites)


def graph_recipe(champion: ReleaseRef | None) -> str | None:
    """Return the recipe that chose a champion's weights and placement; None where none is known.

    What starts from a champion keeps that of the one before it.
    """
    if champion is None:
        return None
    facts = settings().release(champion.model, champion.digest).facts
    recipe = facts.get("recipe")
    made_by = facts.get("graph_recipe") or (recipe.get("name") if isinstance(recipe, dict) else "")
    try:
        known = find_recipe(str(made_by))
    except BadInput:  # of another version of the catalog
        return None
    return None if known.starts_from_champion else known.name


def resolved(recipe: Recipe, made_by: str | None) -> Recipe:
    """Return the recipe with what it takes over from the one that wrote the champion's graph.

    Raises `BadInput` where that is unknown, or has nothing that could be renewed.
    """
    if recipe.keeps_graph and made_by is not None and isinstance(recipe.activation, Static):
        before = find_recipe(made_by).activation
        room = before.headroom if isinstance(before, Static) else 1.0
        return replace(recipe, activation=replace(recipe.activation, headroom=room))
    if not recipe.keeps_placement:
        return recipe
    if made_by is None:
        raise BadInput(
            f"recipe {recipe.name} renews a champion's smoothing, and no champion of a known "
            "recipe exists: use int8-smooth"
        )
    return renewed(recipe, made_by)


def load_evidence(
    model: RegisteredModel,
    calibration: SampleRef,
    observation: str,
    recipe: Recipe,
    losses: str | None,
    deployed: Champion | None = None,
) -> CalibrationEvidence:
    """Return what the recipe reads of a calibration set, with the passes that it alone asks for.

    `deployed` is the champion, where the recipe keeps its graph.
    """
    caches = recipe.kv_cache is NumberFormat.INT8
    if deployed and deployed.graph is not None and recipe.keeps_graph:
        caches = bool(stored_scales(deployed.graph))
    return CalibrationEvidence(
        model.graph,
        model.sites,
        load_observation(observation),
        parse_ceilings(calibration.ceilings),
        load_losses(losses) if losses else None,
        many_rows=_many_rows(model, calibration) if recipe.learns_from_many else None,
        keys_and_values=_keys_and_values(model, calibration) if caches else None,
        kernels=_kernels(model, calibration),
    )


def _kernels(model: RegisteredModel, calibration: SampleRef) -> KernelEvidence | None:
    """Return what tells a target's time and loss by layer, where the target takes a choice."""
    if ONNXRUNTIME not in model.spec.targets:
        return None
    payloads = [request.payload for request in load_requests(calibration)]
    budgets = model.spec.budgets
    return KernelEvidence(
        model.inputs, model.spec.task, payloads, budgets.int8_fraction, budgets.latency_ratio
    )


def _many_rows(model: RegisteredModel, calibration: SampleRef) -> dict[str, SiteObservation]:
    """Pass over the calibration set again, and keep as many rows as GPTQ needs for few bits.

    They are not stored.
    """
    payloads = [request.payload for request in load_requests(calibration)]
    passed = (model.instrumented, model.sites, model.inputs, payloads)
    observed = watch(*passed, rows=MANY_ROWS, cases=model.observed_cases)
    return bounded(observed, parse_ceilings(calibration.ceilings))


def _keys_and_values(model: RegisteredModel, calibration: SampleRef) -> CacheEvidence:
    """Return full precision's keys and values, for a graph that caches them in INT8."""
    cache = language_inputs(model.inputs).layout
    payloads = [request.payload for request in load_requests(calibration)]
    return CacheEvidence(cache, observe_cache(model.reference, cache, model.inputs, payloads))


def watch_by_champion(
    model: RegisteredModel,
    calibration: SampleRef,
    observation: str,
    recipe: Recipe,
    champion: ReleaseRef | None,
) -> str | None:
    """Return the key of what the champion's quantizers see, where a rule weighs it.

    That is a pass through the champion's smoothing scales. It is stored, and made once.
    """
    if champion is None or not recipe.keeps_graph or not recipe.weighs:
        return None
    deployed = settings().release(champion.model, champion.digest)
    scales = parse_scales(
        deployed.file("scales.json"), where=f"the scales of version {champion.version}"
    )
    if not scales:
        return None
    key = layout.champion_observation(observation, champion.digest)
    store = settings().store()
    if not store.exists(key):
        requests = load_requests(calibration)
        smoothing = {
            name: item.smoothing_scales
            for name, item in scales.items()
            if item.smoothing_scales is not None
        }
        by_request = watch_histograms(
            model.instrumented,
            tuple(site for site in model.sites if site.name in scales),
            model.inputs,
            [request.payload for request in requests],
            smoothing,
            weights=weights_of(store, calibration.key, requests),
            ceilings=parse_ceilings(calibration.ceilings),
            support=model.spec.calibration.least_support,
            cases=model.observed_cases,
        )
        store.put(key, dump_histograms(by_request))
    return key


@lru_cache(maxsize=4)
def load_tuned(
    model_name: str,
    digest: str,
    observation: str,
    recipe: Recipe,
    champion: ReleaseRef | None,
    by_request: str | None = None,
    ceilings: tuple[tuple[str, float], ...] = (),
) -> Tuned:
    """Return the search, which candidates of one run share.

    Model, observation and champion are named by their digests, and `by_request` by its key.
    `ceilings` are the calibration set's, where the search is bound by them.
    """
    model, champion_scales = open_model(model_name), load_champion(champion)
    requests = None
    if by_request:
        requests = parse_histograms(settings().store().get(by_request), where=by_request)
    return tune(
        model.graph,
        model.sites,
        load_observation(observation),
        recipe,
        champion_scales.scales if champion_scales else None,
        requests,
        parse_ceilings(dict(ceilings)),
    )


def require_room_for(model: RegisteredModel, recipe: Recipe) -> None:
    """Raise before the work begins where memory is too short for a recipe."""
    _require(model, needed_memory_for(model, recipe))


def require_room(model: RegisteredModel) -> None:
    """Raise before the work begins where memory is too short to observe a model.

    The kernel would end it without a word.
    """
    _require(model, needed_memory(model))


def needed_memory_for(model: RegisteredModel, recipe: Recipe) -> int:
    """Return the bytes at the peak of deriving a recipe's graph, estimated beforehand."""
    hessian = isinstance(recipe.rounding, Gptq | Trained)
    kept = MANY_ROWS if recipe.learns_from_many else ROWS
    if not model.is_large:
        return _footprint(model, kept, hessian=hessian)
    tokens = model.spec.input.max_length
    args = (model.graph, model.observed_sites)
    derived = deriving_beside(*args, tokens=tokens, kept=kept, hessian=hessian)
    return max(derived, needed_memory(model, kept)) if recipe.learns_from_many else derived


def needed_memory(model: RegisteredModel, kept: int = ROWS) -> int:
    """Return the bytes at the peak of observing a model, estimated beforehand."""
    if not model.is_large:
        return _footprint(model, kept)
    cases, tokens = model.observed_cases, model.spec.input.max_length
    return observing_beside(
        model.graph, model.observed_sites, tokens=tokens, cases=cases, kept=kept
    )


def _footprint(model: RegisteredModel, kept: int, *, hessian: bool = False) -> int:
    """Estimate; a custom task's inputs are taken in their common shapes."""
    profile = {} if model.layout is None else each_profile(model.inputs.profile)[0]
    return footprint(
        model.graph,
        model.observed_sites,
        tokens=model.spec.input.max_length,
        batch=BATCH,
        hessian=hessian,
        kept=kept,
        inputs={name: item.common for name, item in profile.items()},
    ).total


def _require(model: RegisteredModel, needed: int) -> None:
    mend = "free some, lower input.max_length, or run it on a larger machine"
    require_memory(needed, f"quantizing {model.name}", mend)
