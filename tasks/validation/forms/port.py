"""What judging asks, whatever form a model has."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Protocol

from tasks.models.catalog import RegisteredModel
from tasks.records import CandidateRef, EngineRef, GateReport
from tasks.validation.judge import BuiltEngine
from tasks.validation.metrics.golden import CaseScores


class Judge(Protocol):
    """Judges what is served of a candidate or version."""

    @property
    def writes_answers(self) -> bool:
        """Whether answers are written to prompts, so that suites of answers can be judged."""
        ...

    def why_not_here(self, target: str) -> str | None:
        """Return why a target's engines cannot run here; raises `Unavailable` likewise."""
        ...

    def plan_file(self, target: str) -> str:
        """Return which file of a candidate or version is the engine of a target."""
        ...

    def built(self, candidate: CandidateRef, engine: EngineRef) -> BuiltEngine:
        """Load a stored engine, and what was told of it."""
        ...

    def judge(
        self, model: RegisteredModel, built: BuiltEngine, served: Set[str], *, thorough: bool
    ) -> tuple[GateReport, bytes | None]:
        """Judge an engine by the golden cases and its costs.

        Args:
            model: The model that it was built for.
            built: The engine.
            served: Groups of the traffic at hand.
            thorough: Measure costs whatever the quality is.

        Returns:
            The report, and what the engine told of its kernels, where it tells.

        Raises:
            Unavailable: What was asked does not answer, which says nothing about the engine.
        """
        ...

    def scores(self, model: RegisteredModel, target: str, plan: bytes) -> Mapping[str, CaseScores]:
        """Return every golden metric of an engine, judged by nothing."""
        ...
