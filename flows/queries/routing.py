"""What routing the champion's unsure answers to full precision would buy, on golden cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.gateway.steering.opening import OpenReleases
from flows.gateway.steering.tiers import golden_scores
from infra.engines.port import Engine
from infra.errors import BadInput, NotFound
from infra.settings import settings
from tasks.metrics.classification import accuracy, label_agreement
from tasks.models.catalog import RegisteredModel
from tasks.promotion import journal, ledger
from tasks.records import Payload
from tasks.serving.confidence import confidence
from tasks.serving.curve import CurvePoint, TieredAnswers, curve
from tasks.specs.serving import RoutingSpec
from tasks.specs.spec import SCORED

ROUNDS = 51
"""Timed runs of each engine."""


@dataclass(frozen=True, slots=True)
class RoutingCurve:
    """Quality against cost for one release."""

    model: str
    version: str  # the champion's
    measure: str  # of confidence
    quality: str  # what quality means
    cases: int
    points: tuple[CurvePoint, ...]


def routing_curve(model: str) -> RoutingCurve:
    """Measure both tiers on the golden cases.

    Raises:
        BadInput: The model gives no scores of classes.
        NotFound: It has no champion, or is unknown.
    """
    releases = OpenReleases(settings())
    registered = releases.registered(model)
    routing = _routing(registered)
    entries = journal.read(model)
    champion = ledger.champion(entries)
    if champion is None:
        raise NotFound(f"{model} has no champion yet: run `requant maintain {model}` first")
    routine, higher = releases.release(registered, champion), releases.reference(registered)
    cases = registered.golden.cases
    payloads = [case.payload for case in cases]
    output = routing.output or registered.inputs.output
    scores = golden_scores(registered, routine, output, payloads)
    reference = golden_scores(registered, higher, output, payloads)
    scores, reference = (rows.reshape(len(rows), -1) for rows in (scores, reference))
    sure = confidence(scores, routing.measure)
    labels = [case.label for case in cases]
    if all(label is not None and label.isdecimal() for label in labels):
        classes = np.array([int(str(label)) for label in labels])
        quality, told = (accuracy(scores, classes), accuracy(reference, classes)), "accuracy"
    else:
        quality = (label_agreement(reference, scores), np.ones(len(scores)))
        told = "agreement with full precision"
    answers = TieredAnswers(sure, *quality, _seen(registered, payloads))
    cost = _cost(routine.engine, higher.engine, registered)
    return RoutingCurve(
        model,
        routine.version,
        routing.measure,
        told,
        len(cases),
        curve(answers, cost),
    )


def _routing(registered: RegisteredModel) -> RoutingSpec:
    """Return the spec's rules, or what they are where it has none."""
    spec = registered.spec
    routing = (spec.serving.routing if spec.serving else None) or RoutingSpec()
    if spec.task not in SCORED and routing.output is None:
        raise BadInput(
            f"{registered.name} gives no scores of classes that tell how sure it is: name the "
            "output of a custom task in serving.routing.output"
        )
    return routing


def _seen(registered: RegisteredModel, payloads: Sequence[Payload]) -> NDArray[np.float64] | None:
    """Return each case's largest input as a row; None where cases differ in length."""
    rows: dict[int, NDArray[np.float64]] = {}
    for batch in registered.inputs.batches(payloads):
        largest = max(batch.feeds.values(), key=lambda values: values.size)
        if len(largest) != len(batch.cases):
            return None
        flat = largest.reshape(len(largest), -1).astype(np.float64)
        rows.update(zip(batch.cases.tolist(), flat, strict=True))
    return np.stack([rows[case] for case in range(len(rows))]) if _alike(rows) else None


def _alike(rows: Mapping[int, NDArray[np.float64]]) -> bool:
    return len({len(row) for row in rows.values()}) == 1


def _cost(routine: Engine, higher: Engine, registered: RegisteredModel) -> float:
    """Return the median time of one golden case, in that of the higher tier.

    The engines take turns: what else the machine does slows both alike.
    """
    batch = next(iter(registered.inputs.batches([registered.golden.cases[0].payload])))
    times = [
        (routine.time_runs(batch.feeds, 1), higher.time_runs(batch.feeds, 1)) for _ in range(ROUNDS)
    ]
    ours, theirs = np.median(np.asarray(times).reshape(ROUNDS, 2), axis=0)
    return float(ours / theirs)
