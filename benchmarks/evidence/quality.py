"""How right full precision itself is on cases with labels, kind by kind."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from benchmarks.evidence.kinds import ModelKind, Scores
from infra.engines.port import Engine
from tasks.metrics.classification import accuracy
from tasks.metrics.embeddings import recall_at_k
from tasks.metrics.error_rates import word_error_rate
from tasks.models.golden import relevant_rows
from tasks.models.inputs import language_inputs, run_all, speech_inputs
from tasks.models.language.comparison import compare
from tasks.models.vision.classes import Classes, prototypes
from tasks.records import CaseKind, GoldenCase, Payload
from tasks.specs.traits import Task


class Labelled(Protocol):
    """A request or a golden case."""

    @property
    def label(self) -> str | None: ...


Pairs = Sequence[tuple[Labelled, Payload]]
"""Each with the payload that it has come to hold."""


def right(kind: ModelKind, engine: Engine, pairs: Pairs) -> Scores:
    """Accuracy or word accuracy of each pair, 0..1; empty for kinds that labels of single requests cannot judge."""
    judge = _BY_LABEL.get(kind.subject.spec.task)
    known = [pair for pair in pairs if pair[0].label is not None]
    return judge(kind, engine, known) if judge and known else np.zeros(0)


def quality(kind: ModelKind, engine: Engine, cases: Sequence[tuple[GoldenCase, Payload]]) -> Scores:
    """Full precision's own answers against the labels, a case each; empty where these cases have none.

    Recall at 5 of queries among the passages at hand; accuracy; word accuracy; minus nats a token of a language model.
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
    known = {case.case_id for case in golden if case.kind is CaseKind.PASSAGE}
    passages = np.flatnonzero([case.kind is CaseKind.PASSAGE for case in golden])
    queries = np.flatnonzero(
        [case.kind is CaseKind.QUERY and set(case.relevant) <= known for case in golden]
    )
    if not queries.size:
        return np.zeros(0)
    outputs = run_all(engine, kind.subject.inputs, [payload for _, payload in cases])
    return recall_at_k(
        outputs[queries], outputs[passages], relevant_rows(golden, queries, passages)
    )


def _classified(kind: ModelKind, engine: Engine, pairs: Pairs) -> Scores:
    outputs = run_all(engine, kind.subject.inputs, [payload for _, payload in pairs])
    return accuracy(outputs, np.asarray([int(case.label or -1) for case, _ in pairs]))


def _recognised(kind: ModelKind, engine: Engine, pairs: Pairs) -> Scores:
    outputs, classes = (
        run_all(engine, kind.subject.inputs, [payload for _, payload in pairs]),
        _classes(kind, engine),
    )
    return np.asarray(
        classes.nearest(outputs, "labelled")
        == classes.places([case.label or "" for case, _ in pairs]),
        float,
    )


def _classes(kind: ModelKind, engine: Engine) -> Classes:
    """Means of the labelled traffic's own images, before any shift."""
    shown = [(one.payload, one.label) for one in kind.traffic if one.label is not None]
    outputs = run_all(engine, kind.subject.inputs, [payload for payload, _ in shown])
    return prototypes(outputs, [label for _, label in shown])


def _transcribed(kind: ModelKind, engine: Engine, pairs: Pairs) -> Scores:
    inputs = speech_inputs(kind.subject.inputs)
    written = inputs.expected([payload for _, payload in pairs])
    found = [
        max(0.0, 1.0 - word_error_rate(case.label or "", inputs.decode(ids)))
        for (case, _), ids in zip(pairs, written, strict=True)
    ]
    return np.array(found)


_BY_LABEL: Mapping[Task, Callable[[ModelKind, Engine, Pairs], Scores]] = {
    Task.IMAGE_CLASSIFICATION: _classified,
    Task.IMAGE_EMBEDDING: _recognised,
    Task.SPEECH_RECOGNITION: _transcribed,
}
