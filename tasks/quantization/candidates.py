"""Candidates in the store: named by what they follow from, their facts, files and engines."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from infra.canonical import Json, canonical, sha256
from infra.engines.port import Built
from infra.errors import NotFound
from infra.identifiers import Digest
from infra.settings import settings
from infra.stores import layout
from infra.weights.naming import weight_files, whole_size
from tasks.models.catalog import RegisteredModel
from tasks.quantization.pipeline.candidate import QuantizedGraph, candidate_facts, candidate_files
from tasks.quantization.recipe.ladder import chooses_sites
from tasks.quantization.recipe.recipe import Recipe
from tasks.records import CandidateRef, ReleaseRef, SampleRef

FACTS, LAYERS = "candidate.json", "layers.json"


def candidate_id(
    model: RegisteredModel,
    recipe: Recipe,
    observation: str,
    champion: ReleaseRef | None,
    losses: str | None,
    largest_change: float | None,
) -> Digest:
    """Return the digest of everything that a candidate follows from.

    Only a recipe that starts from the champion depends on the champion, and only mixed ones on
    the ranking.
    """
    base = champion.digest if champion and recipe.starts_from_champion else None
    parts: Mapping[str, Json] = {
        "model": model.digest,
        "recipe": recipe.document(),
        "observation": observation,
        "champion": base,
        "largest_scale_change": largest_change if base else None,
        "losses": losses.replace("-others", "") if losses and chooses_sites(recipe) else None,
    }
    return Digest(sha256(canonical(parts))[:32])


def load_facts(key: str) -> dict[str, Any] | None:
    """Return what is recorded of a candidate, or None where there is none yet."""
    try:
        facts: dict[str, Any] = json.loads(settings().store().get(key))
    except NotFound:
        return None
    return facts


def stored_candidate(model: RegisteredModel, name: Digest, recipe: Recipe) -> CandidateRef | None:
    """Return a candidate that was written before; None where there is none."""
    facts = load_facts(layout.candidate_file(model.name, name, FACTS))
    return None if facts is None else _reference(model, name, recipe, facts)


def store_candidate(
    model: RegisteredModel,
    name: Digest,
    candidate: QuantizedGraph,
    recipe: Recipe,
    calibration: SampleRef,
    observation: str,
    graph_recipe: str | None = None,
) -> CandidateRef:
    """Write a quantized graph's files, its facts last."""
    made_of = (model.digest, calibration.digest, observation, graph_recipe)
    facts = candidate_facts(candidate, recipe, *made_of)
    return store_files(model, name, recipe, candidate_files(candidate, facts))


def store_files(
    model: RegisteredModel, name: Digest, recipe: Recipe, files: Mapping[str, bytes]
) -> CandidateRef:
    """Write a candidate's files, `FACTS` last: one without is incomplete, and written again."""
    for file in sorted(files, key=lambda file: file == FACTS):
        with settings().weights().published(weight_files(files[file])):
            settings().store().put(layout.candidate_file(model.name, name, file), files[file])
    return _reference(model, name, recipe, json.loads(files[FACTS]))


def _reference(
    model: RegisteredModel, name: Digest, recipe: Recipe, facts: Mapping[str, Any]
) -> CandidateRef:
    return CandidateRef(
        model.name,
        name,
        recipe.name,
        facts["calibration"],
        tuple(facts["kept_high"]),
        facts["quantized_share"],
        tuple(facts.get("remarks", ())),
    )


def stored_engine_size(
    candidate: CandidateRef, target: str, is_current: Callable[[bytes | None], bool]
) -> int | None:
    """Return the bytes of an engine that was built before; None where there is none.

    One for another device or version, as `is_current` tells by its metadata, is none.
    """
    store = settings().store()
    if not store.exists(_engine_file(candidate, target, LAYERS)):
        return None
    try:
        metadata = store.get(_engine_file(candidate, target, "plan.json"))
    except NotFound:
        metadata = None
    if not is_current(metadata):
        return None
    return whole_size(store.get(_engine_file(candidate, target, "plan")))


def store_engine(candidate: CandidateRef, target: str, built: Built) -> None:
    """Write an engine's files, its layers last: without them it is built again."""
    store = settings().store()
    with settings().weights().published(weight_files(built.plan)):
        store.put(_engine_file(candidate, target, "plan"), built.plan)
    if built.metadata is not None:
        store.put(_engine_file(candidate, target, "plan.json"), built.metadata)
    store.put(_engine_file(candidate, target, LAYERS), built.layers)


def _engine_file(candidate: CandidateRef, target: str, name: str) -> str:
    return candidate.key(f"engines/{target}/{name}")
