"""Judging a model that stays a checkpoint: both sides read the golden texts, a layer at a time."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

import onnx

from infra.errors import RequantError, Unavailable
from infra.settings import settings
from infra.weights.naming import whole_size
from tasks.layerwise.comparing import compare_payloads
from tasks.models.catalog import RegisteredModel
from tasks.models.checkpoints.carried import CarriedCheckpoint
from tasks.models.inputs import language_inputs
from tasks.models.source_files import FULL_PRECISION
from tasks.records import CandidateRef, EngineRef, GateReport
from tasks.validation.costs import CostPair, size_gate, untimed
from tasks.validation.gates import error_gate, metric_gates
from tasks.validation.golden_run import taught
from tasks.validation.judge import BuiltEngine
from tasks.validation.metrics.golden import CaseScores
from tasks.validation.metrics.language import scores_of_texts


class CheckpointJudge:
    """Reads what was stored, and writes no answers; whoever serves it measures its speed."""

    writes_answers: bool = False

    def why_not_here(self, target: str) -> str | None:
        """As `Judge.why_not_here`: any machine reads it."""
        return None

    def plan_file(self, target: str) -> str:
        """As `Judge.plan_file`: the index of its tensors."""
        return "graph.onnx"

    def built(self, candidate: CandidateRef, engine: EngineRef) -> BuiltEngine:
        """As `Judge.built`."""
        index = settings().store().get(candidate.key(self.plan_file(engine.target)))
        return BuiltEngine(candidate, engine, index, b"", index, None)

    def judge(
        self, model: RegisteredModel, built: BuiltEngine, served: Set[str], *, thorough: bool
    ) -> tuple[GateReport, bytes | None]:
        """As `Judge.judge`: by the golden texts, and by its size."""
        budgets, target = model.spec.budgets, built.ref.target
        sizes = CostPair(whole_size(model.file(FULL_PRECISION)), whole_size(built.plan))
        size = size_gate(sizes, budgets)
        try:
            scores = self.scores(model, target, built.plan)
        except Unavailable:
            raise
        except RequantError as exc:
            return GateReport(target, (error_gate("outputs", "all", exc),)), None
        costs = (
            replace(size, binding=built.candidate.quantized_share > 0),
            *untimed(budgets, "a checkpoint is timed where it is served"),
        )
        gates = metric_gates(scores, model.golden, budgets, served=frozenset(served))
        return GateReport(target, (*gates, *costs)), None

    def scores(self, model: RegisteredModel, target: str, plan: bytes) -> Mapping[str, CaseScores]:
        """As `Judge.scores`.

        Raises:
            BadInput: Its logits are not finite.
            Tampered: What is outside of its decoder layers is not the original's.
            Unavailable: The workspace's weights cannot be read.
        """
        golden, inputs = model.golden, language_inputs(model.inputs)
        carried = CarriedCheckpoint(onnx.load_from_string(plan))
        texts = [taught(inputs, case) for case in golden.cases]
        found = scores_of_texts(golden, compare_payloads(model, carried, texts).scores)
        return {metric: scores for metric, scores in found.items() if scores.values.size}
