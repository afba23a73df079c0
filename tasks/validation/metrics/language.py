"""What a language model's candidate scores on the golden cases, against full precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from tasks.metrics.generated_text import (
    BLOCKED,
    METRICS,
    Measure,
    Places,
    Scores,
    blocks,
    f1,
    ran,
    why_not_run,
)
from tasks.models.decoding.comparison import Comparison
from tasks.models.golden import positions
from tasks.records import CaseKind, GoldenSet
from tasks.validation.metrics.golden import CaseScores

REPORTED = ("kl", "loss-reference", "loss-candidate")
"""Figures for the reader, judged by nothing.

So are the `-reference` and `-candidate` scores of every suite.
"""

OF_CACHE = ("cache-perplexity-ratio", "cache-agreement")
"""What only a candidate whose cache is quantized is judged by."""


OF_PROGRAMS = "code-drop"
"""What generated programs are judged by."""


@dataclass(frozen=True, slots=True, eq=False)
class LanguageOutputs:
    """What both models made of a golden set."""

    compared: Comparison  # of every case's text, prompts among them, in order
    reference: Mapping[int, str]  # answers by position, full precision's
    candidate: Mapping[int, str]
    cached: Comparison | None = (
        None  # of steps over the candidate's cache, where that holds quantized values
    )


def evaluate_language(golden: GoldenSet, outputs: LanguageOutputs) -> Mapping[str, CaseScores]:
    """Compute every metric that the golden set allows; a metric without a case is absent.

    Of every text: `perplexity-ratio` as the difference of both mean token losses, whose mean's
    exponential is the ratio. `agreement`, the fraction of tokens after which both models find the
    same next one likeliest. `kl` and `loss-*`. Where the candidate caches quantized values,
    `cache-perplexity-ratio` and `cache-agreement` are the same of steps over them.

    Of suites, full precision's score minus the candidate's: `rouge-drop`, `exact-match-drop`,
    `f1-drop`, `dialogue-drop`, `code-drop`. The scores themselves are `*-reference` and
    `*-candidate`. Of safety cases, `safety-flips`. A case without a label is scored against full
    precision's own answer: fidelity, not quality.
    """
    metrics = (
        scores_of_texts(golden, outputs.compared)
        | _cached(golden, outputs.cached)
        | _suites(golden, outputs)
        | _code(golden, outputs)
    )
    metrics |= _safety(golden, outputs)
    return MappingProxyType(
        {metric: scores for metric, scores in metrics.items() if scores.values.size}
    )


def scores_of_texts(golden: GoldenSet, compared: Comparison) -> dict[str, CaseScores]:
    """Return what a golden set's texts alone score: no answer is written for it."""
    cases = np.arange(len(golden.cases))
    values = {
        "perplexity-ratio": compared.candidate_loss - compared.reference_loss,
        "agreement": compared.agreement,
        "kl": compared.divergence,
        "loss-reference": compared.reference_loss,
        "loss-candidate": compared.candidate_loss,
    }
    return {metric: CaseScores(scores, cases) for metric, scores in values.items()}


def _cached(golden: GoldenSet, cached: Comparison | None) -> dict[str, CaseScores]:
    """Score texts with at least one step over the cache."""
    if cached is None:
        return {}
    cases = np.flatnonzero(cached.tokens > 1)
    values = (cached.candidate_loss - cached.reference_loss, cached.agreement)
    return {
        metric: CaseScores(scores[cases], cases)
        for metric, scores in zip(OF_CACHE, values, strict=True)
    }


def _suites(golden: GoldenSet, outputs: LanguageOutputs) -> dict[str, CaseScores]:
    metrics: dict[str, CaseScores] = {}
    for kind, (name, measure) in METRICS.items():
        metrics |= _paired(golden, outputs, kind, name, measure)
    return metrics | _paired(golden, outputs, CaseKind.ANSWER, "f1", f1)


def _paired(
    golden: GoldenSet,
    outputs: LanguageOutputs,
    kind: CaseKind,
    name: str,
    measure: Measure,
) -> dict[str, CaseScores]:
    cases = positions(golden.cases, kind)
    rights = {
        place: golden.cases[place].label or outputs.reference[place] for place in cases.tolist()
    }
    before, after = (
        np.array(
            [measure(right.strip(), side[place].strip()) for place, right in rights.items()],
            np.float64,
        )
        for side in (outputs.reference, outputs.candidate)
    )
    return _drop(name, before, after, cases)


def _code(golden: GoldenSet, outputs: LanguageOutputs) -> dict[str, CaseScores]:
    """Run the programs that both sides wrote.

    A candidate that writes the same program passes or fails as full precision did: it is not run
    twice. Where none may run, nothing is scored.
    """
    cases = positions(golden.cases, CaseKind.CODE)
    if not cases.size or why_not_run() is not None:
        return {}
    runs = {
        (place, text): ran(str(golden.cases[place].payload), golden.cases[place].label or "", text)
        for side in (outputs.reference, outputs.candidate)
        for place, text in side.items()
        if golden.cases[place].kind is CaseKind.CODE
    }
    before, after = (
        [runs[place, side[place]] for place in cases.tolist()]
        for side in (outputs.reference, outputs.candidate)
    )
    passed, compiled = (
        [np.array([getattr(run, fact) for run in side], np.float64) for side in (before, after)]
        for fact in ("passes", "compiles")
    )
    parses = _drop("code-compiles", compiled[0], compiled[1], cases)
    del parses["code-compiles-drop"]  # a program that no longer compiles no longer passes
    return _drop("code", passed[0], passed[1], cases) | parses


def _drop(
    name: str,
    before: Scores,
    after: Scores,
    cases: Places,
) -> dict[str, CaseScores]:
    return {
        f"{name}-drop": CaseScores(before - after, cases),
        f"{name}-reference": CaseScores(before, cases),
        f"{name}-candidate": CaseScores(after, cases),
    }


def _safety(golden: GoldenSet, outputs: LanguageOutputs) -> dict[str, CaseScores]:
    cases = positions(golden.cases, CaseKind.SAFETY)
    before, after = (
        np.array([blocks(side[place]) for place in cases.tolist()], bool)
        for side in (outputs.reference, outputs.candidate)
    )
    right = np.array([golden.cases[place].label == BLOCKED for place in cases.tolist()], bool)
    flips = {"safety-flips": CaseScores((before != after).astype(np.float64), cases)}
    guardrail = {"guardrail-reference": before == right, "guardrail-candidate": after == right}
    return flips | {
        name: CaseScores(values.astype(np.float64), cases) for name, values in guardrail.items()
    }
