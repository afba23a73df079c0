"""Judging a model that is a graph: the engine of each target runs."""

from __future__ import annotations

from collections.abc import Mapping, Set

from infra.engines import open_target
from infra.errors import NotFound
from infra.settings import settings
from tasks.models.catalog import RegisteredModel
from tasks.records import CandidateRef, EngineRef, GateReport
from tasks.validation.golden_run import GoldenRun, golden_scores
from tasks.validation.judge import BuiltEngine, judge_built
from tasks.validation.metrics.golden import CaseScores


class GraphJudge:
    """Runs an engine beside full precision's."""

    writes_answers: bool = True

    def why_not_here(self, target: str) -> str | None:
        """As `Judge.why_not_here`."""
        return open_target(target).why_not_executable()

    def plan_file(self, target: str) -> str:
        """As `Judge.plan_file`."""
        return f"engines/{target}/plan"

    def built(self, candidate: CandidateRef, engine: EngineRef) -> BuiltEngine:
        """As `Judge.built`."""
        store, folder = settings().store(), f"engines/{engine.target}"
        try:
            metadata = store.get(candidate.key(f"{folder}/plan.json"))
        except NotFound:
            metadata = None
        return BuiltEngine(
            candidate,
            engine,
            graph=store.get(candidate.key("graph.onnx")),
            layers=store.get(candidate.key(f"{folder}/layers.json")),
            plan=store.get(candidate.key(self.plan_file(engine.target))),
            metadata=metadata,
        )

    def judge(
        self, model: RegisteredModel, built: BuiltEngine, served: Set[str], *, thorough: bool
    ) -> tuple[GateReport, bytes | None]:
        """As `Judge.judge`."""
        return judge_built(model, built, frozenset(served), thorough=thorough)

    def scores(self, model: RegisteredModel, target: str, plan: bytes) -> Mapping[str, CaseScores]:
        """As `Judge.scores`."""
        return golden_scores(GoldenRun(model, open_target(target).load(plan)))
