"""What a candidate's outputs score on the golden cases, against full precision's on the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.metrics.classification import accuracy
from tasks.metrics.embeddings import cosine, nearest_passages, recall_at_k, safety_decisions
from tasks.metrics.fidelity import fidelity
from tasks.metrics.outputs import finite_rows
from tasks.models.golden import positions, relevant_rows
from tasks.records import CaseKind, GoldenCase, GoldenSet
from tasks.specs.spec import Task

RECALL_AT = 5
"""A query's passages must be among this many nearest."""

Outputs = NDArray[np.float32]
"""One row per golden case, in the set's order: [N, D] embeddings or [N, C] logits."""


@dataclass(frozen=True, slots=True, eq=False)
class CaseScores:
    """One metric on the cases that it applies to."""

    values: NDArray[np.float64]  # [n]
    cases: NDArray[np.int64]  # [n], positions in the golden set
    unit: bool = True  # a difference lies in -1..1; an error in dollars does not


def evaluate(
    task: Task, golden: GoldenSet, reference: Outputs, candidate: Outputs
) -> Mapping[str, CaseScores]:
    """Compute every metric that the golden set allows; a metric without a case is absent.

    Text embedding: `cosine` of every case that is no safety case. Of queries `recall-drop` (full
    precision's recall minus the candidate's, -1..1) and `flips` (another passage is nearest). Of
    safety cases `safety-flips` (0/1). Each side's queries search that side's own passages, as they
    would in service.

    Image classification: `flips` (another class wins) of every case; of labelled ones
    `accuracy-drop` (-1, 0, 1).

    For the report, `recall-*` and `accuracy-*` of `reference` and `candidate`.

    Raises:
        BadInput: An output is not finite or does not fit the cases.
    """
    for name, outputs in (("reference", reference), ("candidate", candidate)):
        if len(finite_rows(outputs, name)) != len(golden.cases):
            raise BadInput(
                f"there are {len(outputs)} {name} outputs for {len(golden.cases)} golden cases: "
                "run them all"
            )
    if task is Task.TEXT_EMBEDDING:
        metrics = _fidelity(golden, reference, candidate) | _retrieval(golden, reference, candidate)
        metrics |= _safety(golden, reference, candidate)
    else:
        metrics = _classification(golden, reference, candidate)
    return MappingProxyType(
        {metric: scores for metric, scores in metrics.items() if scores.values.size}
    )


def _fidelity(golden: GoldenSet, reference: Outputs, candidate: Outputs) -> dict[str, CaseScores]:
    cases = positions(golden.cases, CaseKind.PLAIN, CaseKind.QUERY, CaseKind.PASSAGE)
    return {"cosine": CaseScores(cosine(reference[cases], candidate[cases]), cases)}


def _retrieval(golden: GoldenSet, reference: Outputs, candidate: Outputs) -> dict[str, CaseScores]:
    queries, passages = (
        positions(golden.cases, kind) for kind in (CaseKind.QUERY, CaseKind.PASSAGE)
    )
    if not queries.size:
        return {}
    relevant = relevant_rows(golden.cases, queries, passages)
    sides = [(outputs[queries], outputs[passages]) for outputs in (reference, candidate)]
    before, after = (recall_at_k(query, passage, relevant, RECALL_AT) for query, passage in sides)
    first, now = (nearest_passages(query, passage, 1)[:, 0] for query, passage in sides)
    return {
        "recall-drop": CaseScores(before - after, queries),
        "flips": CaseScores((first != now).astype(np.float64), queries),
        "recall-reference": CaseScores(before, queries),
        "recall-candidate": CaseScores(after, queries),
    }


def _safety(golden: GoldenSet, reference: Outputs, candidate: Outputs) -> dict[str, CaseScores]:
    cases = positions(golden.cases, CaseKind.SAFETY)
    if golden.safety_weight is None or not cases.size:
        return {}
    before, after = (
        safety_decisions(outputs[cases], golden.safety_weight, golden.safety_bias)
        for outputs in (reference, candidate)
    )
    return {"safety-flips": CaseScores((before != after).astype(np.float64), cases)}


def _classification(
    golden: GoldenSet, reference: Outputs, candidate: Outputs
) -> dict[str, CaseScores]:
    cases = np.arange(len(golden.cases))
    flips = 1.0 - fidelity(Task.IMAGE_CLASSIFICATION, reference, candidate)
    labelled = np.array(
        [index for index, case in enumerate(golden.cases) if case.label is not None], np.int64
    )
    if not labelled.size:
        return {"flips": CaseScores(flips, cases)}
    labels = [_class_of(golden.cases[index], reference.shape[1]) for index in labelled]
    before, after = (accuracy(outputs[labelled], labels) for outputs in (reference, candidate))
    return {
        "flips": CaseScores(flips, cases),
        "accuracy-drop": CaseScores(before - after, labelled),
        "accuracy-reference": CaseScores(before, labelled),
        "accuracy-candidate": CaseScores(after, labelled),
    }


def _class_of(case: GoldenCase, count: int) -> int:
    """Return the column that a label names: the class number in decimal."""
    label = case.label or ""
    if not (label.isascii() and label.isdigit()) or int(label) >= count:
        raise BadInput(
            f"the golden case {case.case_id!r} has label {label!r}: "
            f"a classifier's label is a class number from 0 to {count - 1}"
        )
    return int(label)
