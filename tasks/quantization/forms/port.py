"""What a climb asks, whatever form its model has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from infra.identifiers import Digest, Key
from tasks.models.catalog import RegisteredModel
from tasks.quantization.recipe.ladder import Search
from tasks.quantization.recipe.recipe import Recipe
from tasks.records import Action, CandidateRef, EngineRef, ReleaseRef, SampleRef


@dataclass(frozen=True, slots=True)
class Basis:
    """What a candidate follows from, beside its model and recipe."""

    calibration: SampleRef
    observation: str  # key
    champion: ReleaseRef | None
    losses: str | None  # key of the measured sensitivity
    largest_change: float | None  # of a scale, in one recalibration; None: any


class Derivation(Protocol):
    """Derives candidates of a model."""

    def ladder(
        self,
        model: RegisteredModel,
        champion: ReleaseRef | None,
        recipe: str | None,
        action: Action,
        search: Search,
    ) -> Sequence[Recipe]:
        """Return the candidates of a run in order; one that a person named is the only one."""
        ...

    def least_size_ratio(self, model: RegisteredModel, recipe: Recipe) -> float:
        """Return what a recipe's engine takes at least, over full precision's bytes."""
        ...

    def ranks_sites(self, recipe: Recipe) -> bool:
        """Return whether sites have to be ranked by their losses before `write`."""
        ...

    def observing(self, model: RegisteredModel, requests: int) -> str | None:
        """Return what a run says before `observe`; None where nothing is observed apart."""
        ...

    def observe(self, model: RegisteredModel, calibration: SampleRef, key: Key) -> None:
        """Store what every site saw of a calibration set, where that precedes the derivation."""
        ...

    def write(
        self, model: RegisteredModel, name: Digest, recipe: Recipe, basis: Basis
    ) -> CandidateRef:
        """Derive a candidate and store it."""
        ...

    def build(self, candidate: CandidateRef, target: str) -> EngineRef:
        """Return a candidate's engine for a target, built where there is none yet."""
        ...
