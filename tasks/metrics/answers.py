"""How good an answer is: ROUGE, exact match and F1 by the libraries that define them, code by running it."""

import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.processes.sandbox import Ran, run_checks
from tasks.records import CaseKind

BLOCKED = "blocked"
Measure = Callable[[str, str], float]
"""(right answer, given answer) -> 0..1."""
Scores = NDArray[np.float64]
Places = NDArray[np.int64]


def rouge(right: str, given: str) -> float:
    """ROUGE-L's F-measure, 0..1 (Lin, "ROUGE", 2004), by the package rouge-score."""
    return float(_scorer().score(right, given)["rougeL"].fmeasure)


def exact_match(right: str, given: str) -> float:
    """1.0 where both are equal after SQuAD's normalisation (arXiv 1606.05250), else 0.0."""
    return _squad(right, given)["exact_match"]


def f1(right: str, given: str) -> float:
    """F1 of the words of both, 0..1, after SQuAD's normalisation (arXiv 1606.05250)."""
    return _squad(right, given)["f1"]


def blocks(given: str) -> bool:
    """Whether a guardrail answer blocks the request: its first word decides."""
    return given.strip().casefold().startswith(BLOCKED)


def ran(prompt: str, checks: str, given: str) -> Ran:
    """What became of a generated program (the prompt and its answer) with one check a line."""
    return run_checks(prompt + given, checks.splitlines())


METRICS: Mapping[CaseKind, tuple[str, Measure]] = {
    CaseKind.SUMMARY: ("rouge", rouge),
    CaseKind.ANSWER: ("exact-match", exact_match),
    CaseKind.DIALOGUE: ("dialogue", exact_match),
}
"""The main score of each kind of case that compares two texts; code and guardrails are scored otherwise."""
SUITES = (*METRICS, CaseKind.CODE, CaseKind.SAFETY)
"""Kinds of golden cases that are generated."""


@cache
def _scorer() -> Any:
    from absl import logging
    from rouge_score.rouge_scorer import RougeScorer

    # Whoever configures logging later closes every handler, and absl's would close whatever stderr was at its import.
    logging.get_absl_handler().python_handler.stream = sys.__stderr__
    return RougeScorer(["rougeL"])


def _squad(right: str, given: str) -> dict[str, float]:
    from torchmetrics.functional.text import squad

    found = squad(
        {"prediction_text": given, "id": "0"},
        {"answers": {"answer_start": [0], "text": [right]}, "id": "0"},
    )
    return {name: float(value) / 100 for name, value in found.items()}
