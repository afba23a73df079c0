"""Candidates of a model that stays a checkpoint: another checkpoint, which is its own engine."""

from __future__ import annotations

from collections.abc import Sequence

from infra.identifiers import Digest, Key
from infra.settings import settings
from infra.weights.naming import whole_size
from tasks.models.catalog import RegisteredModel
from tasks.models.inputs import language_inputs
from tasks.observation.ceilings import parse_ceilings
from tasks.quantization import candidates, loading
from tasks.quantization.forms.port import Basis
from tasks.quantization.recipe.ladder import Search, climb_checkpoint
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.streamed.candidate import (
    Origin,
    blocks_fit,
    derive_candidate,
    least_checkpoint_ratio,
)
from tasks.records import Action, CandidateRef, EngineRef, ReleaseRef, SampleRef


class CheckpointDerivation:
    """Observes each decoder layer while it is derived, behind the quantized ones before it."""

    def ladder(
        self,
        model: RegisteredModel,
        champion: ReleaseRef | None,
        recipe: str | None,
        action: Action,
        search: Search,
    ) -> Sequence[Recipe]:
        """As `Derivation.ladder`: without what blocks in these matrices cannot express."""
        made_by = loading.graph_recipe(champion)
        climbed = climb_checkpoint(recipe=recipe, made_by=made_by, action=action, search=search)
        return [item for item in climbed if recipe or blocks_fit(model.checkpoint, item)]

    def least_size_ratio(self, model: RegisteredModel, recipe: Recipe) -> float:
        """As `Derivation.least_size_ratio`."""
        return least_checkpoint_ratio(model.checkpoint, recipe)

    def ranks_sites(self, recipe: Recipe) -> bool:
        """As `Derivation.ranks_sites`: what chooses among them measures them itself."""
        return False

    def observing(self, model: RegisteredModel, requests: int) -> str | None:
        """As `Derivation.observing`: nothing is."""
        return None

    def observe(self, model: RegisteredModel, calibration: SampleRef, key: Key) -> None:
        """As `Derivation.observe`: nothing is stored."""

    def write(
        self, model: RegisteredModel, name: Digest, recipe: Recipe, basis: Basis
    ) -> CandidateRef:
        """As `Derivation.write`.

        A derivation that was ended goes on at the layer where it was.
        """
        ceilings = parse_ceilings(basis.calibration.ceilings)
        files = derive_candidate(
            model.checkpoint,
            language_inputs(model.inputs),
            loading.load_requests(basis.calibration),
            recipe,
            Origin(model.digest, basis.calibration.digest, basis.observation),
            settings().root / "cache" / model.name / "derivations" / name,
            {values.site: limit for values, limit in ceilings.items() if not values.smoothed},
            model.spec.calibration.keep,
        )
        return candidates.store_files(model, name, recipe, files)

    def build(self, candidate: CandidateRef, target: str) -> EngineRef:
        """As `Derivation.build`: a checkpoint is what it is."""
        index = settings().store().get(candidate.key("graph.onnx"))
        return EngineRef(target, whole_size(index), 0.0, True, "")
