"""Full precision on labelled requests, or on golden cases like the window's, for the control."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.metrics.classification import accuracy
from tasks.metrics.custom.labelled import MEASURES, can_read
from tasks.metrics.custom.options import options_of
from tasks.metrics.embeddings import recall_at_k
from tasks.metrics.error_rates import word_error_rate
from tasks.metrics.generated_text import exact_match
from tasks.models.catalog import RegisteredModel
from tasks.models.custom.inputs import run_records
from tasks.models.golden import positions, relevant_rows
from tasks.models.inputs import Inputs, record_inputs, run_all, speech_inputs
from tasks.models.vision.classes import Classes
from tasks.records import CaseKind, GoldenCase, Payload, Request
from tasks.specs.groups import ALL, judged, reach
from tasks.specs.spec import ModelSpec
from tasks.specs.traits import Task

ENOUGH = 20
"""Labelled live requests that speak for the window; with fewer, golden cases like it do."""
NO_LANGUAGE = "none"

Scores = NDArray[np.float64]
Labelled = Sequence[tuple[Payload, str]]


class FullPrecision(Protocol):
    """What answers labelled requests; a registered model is one."""

    @property
    def spec(self) -> ModelSpec:
        """What the model is for."""

    @property
    def reference(self) -> Engine:
        """The full-precision graph."""

    @property
    def inputs(self) -> Inputs:
        """How payloads become feeds."""

    @property
    def charsets(self) -> Mapping[str, Sequence[str]]:
        """The characters of a custom task's metrics that read text, by metric."""

    @property
    def classes(self) -> Classes | None:
        """What an image encoder's embeddings are held against, where there is any."""


def live(model: FullPrecision, requests: Sequence[Request]) -> list[Request]:
    """Return the requests whose label full precision can be held against.

    None of the kinds of model that golden cases judge.
    """
    usable = USABLE.get(model.spec.task)
    return [
        request
        for request in requests
        if usable and request.label is not None and usable(model, request.label)
    ]


def correct(model: FullPrecision, labelled: Labelled) -> Scores:
    """Return how right full precision is on each, 0..1: [labelled]."""
    return JUDGED[model.spec.task](model, labelled) if labelled else np.zeros(0)


def golden_correct(model: RegisteredModel, groups: Sequence[str]) -> Scores:
    """Return the same on golden cases of these groups ("domain=code", "language=ja"): [cases]."""
    if model.spec.task in ASKED:
        return ASKED[model.spec.task](model, groups)
    if model.spec.task not in USABLE:
        return np.zeros(0)
    is_usable = USABLE[model.spec.task]
    usable = [
        case
        for case in model.golden.cases
        if case.label is not None and is_usable(model, case.label)
    ]
    return correct(
        model, [(case.payload, case.label or "") for case in _like_traffic(usable, groups)]
    )


def _like_traffic(cases: Sequence[GoldenCase], groups: Sequence[str]) -> list[GoldenCase]:
    """Return the cases of these groups.

    Of every domain, or language, where traffic holds one that no case is of.
    """
    narrowing = reach(groups, cases).narrowing
    of_domains = frozenset(name for name in narrowing if name.startswith("domain="))
    return [
        case
        for case in cases
        if judged(case, ALL, of_domains if case.language == NO_LANGUAGE else narrowing)
    ]


def _classified(model: FullPrecision, labelled: Labelled) -> Scores:
    logits = run_all(model.reference, model.inputs, [payload for payload, _ in labelled])
    return accuracy(logits, np.asarray([int(label) for _, label in labelled]))


def _recognised(model: FullPrecision, labelled: Labelled) -> Scores:
    """Return 1.0 where an image lies nearest to its label's class, else 0.0."""
    if model.classes is None:
        return np.zeros(0)
    outputs = run_all(model.reference, model.inputs, [payload for payload, _ in labelled])
    right = model.classes.places([label for _, label in labelled])
    return np.asarray(model.classes.nearest(outputs, "labelled") == right, np.float64)


def _transcribed(model: FullPrecision, labelled: Labelled) -> Scores:
    """Return word accuracy, 1 - the word error rate and at least 0, of each recording."""
    inputs = speech_inputs(model.inputs)
    written = inputs.expected([payload for payload, _ in labelled])
    pairs = zip(labelled, written, strict=True)
    return np.array(
        [max(0.0, 1.0 - word_error_rate(label, inputs.decode(ids))) for (_, label), ids in pairs]
    )


def _against_labels(model: FullPrecision, labelled: Labelled) -> Scores:
    """Return how right a custom task's outputs are by the control's metric; of a rate 1 - rate."""
    metric = model.spec.control_metric
    if metric is None:
        return np.zeros(0)
    options = options_of(metric, model.charsets.get(metric.name, ()))
    payloads = [payload for payload, _ in labelled]
    outputs = run_records(model.reference, record_inputs(model.inputs), payloads)
    scores = np.array(
        [
            MEASURES[metric.kind](made, label, options)
            for made, (_, label) in zip(outputs, labelled, strict=True)
        ]
    )
    right = scores if metric.higher_is_better else 1 - scores
    return np.asarray(np.clip(right, 0.0, 1.0), np.float64)


def _answered(model: RegisteredModel, groups: Sequence[str]) -> Scores:
    """Return whether full precision answers golden questions exactly."""
    answers = {
        model.golden.cases[place].case_id: answer for place, answer in model.golden_answers.items()
    }
    labelled = [
        case
        for case in model.golden.cases
        if case.kind is CaseKind.ANSWER and case.label is not None
    ]
    cases = _like_traffic(labelled, groups)
    return np.array([exact_match(case.label or "", answers[case.case_id]) for case in cases])


def _recalled(model: RegisteredModel, groups: Sequence[str]) -> Scores:
    """Return the recall of full precision on golden queries."""
    cases, outputs = model.golden.cases, model.golden_reference
    passages = positions(cases, CaseKind.PASSAGE)
    queries = positions(cases, CaseKind.QUERY)
    like = {case.case_id for case in _like_traffic([cases[place] for place in queries], groups)}
    queries = queries[[cases[place].case_id in like for place in queries]]
    if not queries.size:
        return np.zeros(0)
    return recall_at_k(outputs[queries], outputs[passages], relevant_rows(cases, queries, passages))


def _is_readable(model: FullPrecision, label: str) -> bool:
    metric = model.spec.control_metric
    if metric is None:
        return False
    return can_read(metric.kind, label, options_of(metric, model.charsets.get(metric.name, ())))


def _is_class(model: FullPrecision, label: str) -> bool:
    return model.classes is not None and label in model.classes.names


USABLE: Mapping[Task, Callable[[FullPrecision, str], bool]] = {
    Task.IMAGE_CLASSIFICATION: lambda _, label: label.isdigit(),
    Task.IMAGE_EMBEDDING: _is_class,
    Task.SPEECH_RECOGNITION: lambda _, label: bool(label.strip()),
    Task.CUSTOM: _is_readable,
}
"""Which labels say what is right."""
JUDGED: Mapping[Task, Callable[[FullPrecision, Labelled], Scores]] = {
    Task.IMAGE_CLASSIFICATION: _classified,
    Task.IMAGE_EMBEDDING: _recognised,
    Task.SPEECH_RECOGNITION: _transcribed,
    Task.CUSTOM: _against_labels,
}
ASKED: Mapping[Task, Callable[[RegisteredModel, Sequence[str]], Scores]] = {
    Task.TEXT_EMBEDDING: _recalled,
    Task.CAUSAL_LM: _answered,
}
"""Kinds that only golden cases can judge."""
