"""How right full precision itself is on cases with labels, kind by kind."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from benchmarks.evidence.kinds.model_kind import KindModel, ModelKind, Scores
from infra.engines.port import Engine
from tasks.drift.detectors.labelled import JUDGED, correct
from tasks.metrics.embeddings import recall_at_k
from tasks.models.decoding.comparison import compare
from tasks.models.golden import relevant_rows
from tasks.models.inputs import language_inputs, run_all
from tasks.records import CaseKind, GoldenCase, Payload
from tasks.specs.traits import Task


class Labelled(Protocol):
    """A request or a golden case."""

    @property
    def label(self) -> str | None:
        """The right answer, where one is known."""


Pairs = Sequence[tuple[Labelled, Payload]]
"""Each with the payload that it has come to hold."""


def right(kind: ModelKind, engine: Engine, pairs: Pairs) -> Scores:
    """Return accuracy or word accuracy of each labelled pair, 0..1.

    Empty for kinds that labels of single requests cannot judge.
    """
    if kind.subject.spec.task not in JUDGED:
        return np.zeros(0)
    labelled = [(payload, case.label) for case, payload in pairs if case.label is not None]
    return correct(KindModel(kind, engine), labelled)


def quality(kind: ModelKind, engine: Engine, cases: Sequence[tuple[GoldenCase, Payload]]) -> Scores:
    """Judge full precision's own answers against the labels, a case each.

    An embedding of texts is judged by recall at 5 of queries among the passages at hand. A language
    model is judged by minus its nats a token, other kinds by accuracy or word accuracy. The scores
    are empty where these cases have no labels.
    """
    if kind.subject.spec.task is Task.TEXT_EMBEDDING:
        return _recalled(kind, engine, cases)
    if kind.subject.spec.task is Task.CAUSAL_LM:
        payloads = [payload for _, payload in cases]
        return -compare(
            engine, engine, language_inputs(kind.subject.inputs), payloads
        ).reference_loss
    return right(kind, engine, cases)


def _recalled(
    kind: ModelKind, engine: Engine, cases: Sequence[tuple[GoldenCase, Payload]]
) -> Scores:
    golden = [case for case, _ in cases]
    passage_ids = {case.case_id for case in golden if case.kind is CaseKind.PASSAGE}
    passages = np.flatnonzero([case.kind is CaseKind.PASSAGE for case in golden])
    queries = np.flatnonzero(
        [case.kind is CaseKind.QUERY and set(case.relevant) <= passage_ids for case in golden]
    )
    if not queries.size:
        return np.zeros(0)
    outputs = run_all(engine, kind.subject.inputs, [payload for _, payload in cases])
    return recall_at_k(
        outputs[queries], outputs[passages], relevant_rows(golden, queries, passages)
    )
