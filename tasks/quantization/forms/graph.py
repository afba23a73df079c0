"""Candidates of a model that is a graph: a Q/DQ graph, and an engine for each target."""

from __future__ import annotations

import time
from collections.abc import Sequence

import onnx

from infra.engines import open_target
from infra.identifiers import Digest, Key
from infra.settings import settings
from infra.weights.naming import whole_size
from tasks.models.catalog import RegisteredModel, open_model
from tasks.models.source_files import FULL_PRECISION
from tasks.observation.archive import dump_observation
from tasks.quantization import candidates, loading, measuring
from tasks.quantization.forms.port import Basis
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.candidate import quantize
from tasks.quantization.pipeline.probe import builder_question
from tasks.quantization.pipeline.tuning import tuning_recipe
from tasks.quantization.recipe.ladder import Search, chooses_sites, climb
from tasks.quantization.recipe.least_size import least_bytes
from tasks.quantization.recipe.recipe import Recipe
from tasks.records import Action, CandidateRef, EngineRef, ReleaseRef, SampleRef


class GraphDerivation:
    """Observes full precision once; every candidate is written from that."""

    def ladder(
        self,
        model: RegisteredModel,
        champion: ReleaseRef | None,
        recipe: str | None,
        action: Action,
        search: Search,
    ) -> Sequence[Recipe]:
        """As `Derivation.ladder`."""
        return climb(
            recipe=recipe,
            deployed=loading.deployed_graph(champion, len(model.sites)),
            multiplies_rows=any(site.multiplies_rows for site in model.sites),
            action=action,
            sites=len(model.sites),
            targets=model.spec.targets,
            search=search,
            ask=builder_question(model.sites),
        )

    def least_size_ratio(self, model: RegisteredModel, recipe: Recipe) -> float:
        """As `Derivation.least_size_ratio`."""
        whole = whole_size(model.file(FULL_PRECISION))
        return least_bytes(model.graph, model.sites, recipe) / whole

    def ranks_sites(self, recipe: Recipe) -> bool:
        """As `Derivation.ranks_sites`."""
        return chooses_sites(recipe)

    def observing(self, model: RegisteredModel, requests: int) -> str | None:
        """As `Derivation.observing`."""
        return f"observing {requests} requests at {len(model.sites)} sites"

    def observe(self, model: RegisteredModel, calibration: SampleRef, key: Key) -> None:
        """As `Derivation.observe`."""
        observed = measuring.observe_set(model, calibration)
        settings().store().put(key, dump_observation(observed))

    def write(
        self, model: RegisteredModel, name: Digest, recipe: Recipe, basis: Basis
    ) -> CandidateRef:
        """As `Derivation.write`.

        Where the champion's placement is kept, so are its measured losses.
        """
        calibration, observation, champion = basis.calibration, basis.observation, basis.champion
        loading.require_room_for(model, recipe)
        by_request = loading.watch_by_champion(model, calibration, observation, recipe, champion)
        tuning = (model.name, model.digest, observation, tuning_recipe(recipe), champion)
        limits = tuple(sorted(calibration.ceilings.items())) if recipe.keeps_placement else ()
        tuned = loading.load_tuned(*tuning, by_request, limits) if recipe.quantized else None
        deployed = loading.load_champion(
            champion, model.digest if recipe.starts_from_champion else None
        )
        told = (calibration, observation, recipe, basis.losses)
        evidence = loading.load_evidence(model, *told, deployed)
        candidate = quantize(evidence, recipe, deployed, tuned, basis.largest_change)
        base = loading.graph_recipe(champion) if recipe.starts_from_champion else None
        made_of = (calibration, observation, base)
        return candidates.store_candidate(model, name, candidate, recipe, *made_of)

    def build(self, candidate: CandidateRef, target: str) -> EngineRef:
        """As `Derivation.build`: the graph is lowered for the target and compiled."""
        opened, seconds = open_target(target), 0.0
        reason = opened.why_not_executable()
        size = candidates.stored_engine_size(candidate, target, opened.is_current)
        if size is None:
            started = time.perf_counter()
            profile = open_model(candidate.model).inputs.profile
            graph = onnx.load_from_string(settings().store().get(candidate.key("graph.onnx")))
            built = opened.build(lower(graph, opened.form).SerializeToString(), profile)
            candidates.store_engine(candidate, target, built)
            size, seconds = whole_size(built.plan), time.perf_counter() - started
        return EngineRef(target, size, seconds, reason is None, reason or "")
