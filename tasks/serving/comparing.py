"""How close one release's live answers are to another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.metrics.classification import label_agreement
from tasks.metrics.embeddings import cosine, safety_decisions
from tasks.metrics.fidelity import fidelity_metric
from tasks.records import GoldenSet, Tensor
from tasks.specs.spec import SCORED, Task

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class LiveComparison:
    """Which outputs are held against each other, and what is a decision."""

    outputs: tuple[str, ...]  # flattened and joined to one row a request
    metric: str  # "cosine" or "agreement"
    classes: bool = False  # whether the likeliest class is a decision
    safety_weight: Tensor | None = field(default=None, repr=False)
    safety_bias: float = 0.0

    def scores(
        self, reference: Outputs, outputs: Outputs | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return fidelity and sameness of decisions, each [rows] in 0 to 1.

        No answer, and one that is not finite or of another shape, scores 0. Without decisions the
        second is empty.
        """
        expected = self._rows(reference)
        count = len(expected)
        if outputs is None:
            return np.zeros(count), np.zeros(count if self.decides else 0)
        try:
            actual = self._rows(outputs)
            score = cosine if self.metric == "cosine" else label_agreement
            return np.clip(score(expected, actual), 0.0, 1.0), self._same(expected, actual)
        except (BadInput, KeyError, ValueError):
            return np.zeros(count), np.zeros(count if self.decides else 0)

    @property
    def decides(self) -> bool:
        """Return whether the outputs hold decisions."""
        return self.classes or self.safety_weight is not None

    def _same(self, expected: Tensor, actual: Tensor) -> NDArray[np.float64]:
        if self.safety_weight is not None:
            before, after = (
                safety_decisions(rows, self.safety_weight, self.safety_bias)
                for rows in (expected, actual)
            )
            return np.asarray(before == after, np.float64)
        return label_agreement(expected, actual) if self.classes else np.zeros(0)

    def _rows(self, outputs: Outputs) -> Tensor:
        rows = [outputs[name].reshape(len(outputs[name]), -1) for name in self.outputs]
        return np.concatenate(rows, axis=1).astype(np.float32)


def comparison(task: Task, outputs: tuple[str, ...], golden: GoldenSet) -> LiveComparison:
    """Return how answers of a task are compared; outputs of one's own by their cosine."""
    metric = fidelity_metric(task)
    return LiveComparison(
        outputs,
        "agreement" if metric == "agreement" else "cosine",
        task in SCORED,
        golden.safety_weight,
        golden.safety_bias,
    )
