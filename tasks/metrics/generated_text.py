"""Scores of a generated text: ROUGE, exact match and F1 by their libraries, code by running it."""

import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.processes.sandbox import Ran, run_checks, why_not_isolated
from infra.settings import settings
from tasks.records import CaseKind

BLOCKED = "blocked"
Measure = Callable[[str, str], float]
"""(right answer, generated answer) -> 0..1."""
Scores = NDArray[np.float64]
Places = NDArray[np.int64]


def rouge(right: str, answer: str) -> float:
    """Return ROUGE-L's F-measure, 0..1 (Lin, "ROUGE", 2004), by the package rouge-score."""
    return float(_scorer().score(right, answer)["rougeL"].fmeasure)


def exact_match(right: str, answer: str) -> float:
    """Return 1.0 where both are equal after SQuAD's normalisation (arXiv 1606.05250), else 0.0."""
    return _squad(right, answer)["exact_match"]


def f1(right: str, answer: str) -> float:
    """Return F1 of the words of both, 0..1, after SQuAD's normalisation (arXiv 1606.05250)."""
    return _squad(right, answer)["f1"]


def blocks(answer: str) -> bool:
    """Return whether a guardrail answer blocks the request: its first word decides."""
    return answer.strip().casefold().startswith(BLOCKED)


def ran(prompt: str, checks: str, answer: str) -> Ran:
    """Run a generated program, the prompt and its answer, with one check a line.

    It runs isolated wherever the host can do it; `why_not_run` says where it must not run.
    """
    isolated = why_not_isolated() is None
    return run_checks(prompt + answer, checks.splitlines(), isolated=isolated)


def why_not_run() -> str | None:
    """Return why generated programs must not run here; None where they may."""
    obstacle = why_not_isolated()
    if obstacle is None or settings().unisolated_programs:
        return None
    return (
        f"programs that a model wrote are not run on this host: {obstacle}; or accept that they "
        "run as you, with REQUANT_UNISOLATED_PROGRAMS=true"
    )


METRICS: Mapping[CaseKind, tuple[str, Measure]] = {
    CaseKind.SUMMARY: ("rouge", rouge),
    CaseKind.ANSWER: ("exact-match", exact_match),
    CaseKind.DIALOGUE: ("dialogue", exact_match),
}
"""The main score of each kind of case that compares two texts.

Code and guardrails are scored otherwise.
"""
SUITES = (*METRICS, CaseKind.CODE, CaseKind.SAFETY)
"""Kinds of golden cases that are generated."""


@cache
def _scorer() -> Any:
    from absl import logging
    from rouge_score.rouge_scorer import RougeScorer

    # Whoever configures logging later closes every handler.
    # absl's would close whatever stderr was at its import.
    logging.get_absl_handler().python_handler.stream = sys.__stderr__
    return RougeScorer(["rougeL"])


def _squad(right: str, answer: str) -> dict[str, float]:
    from torchmetrics.functional.text import squad

    percentages = squad(
        {"prediction_text": answer, "id": "0"},
        {"answers": {"answer_start": [0], "text": [right]}, "id": "0"},
    )
    return {name: float(value) / 100 for name, value in percentages.items()}
