"""Champion before and after, on the traffic that changed it."""

from collections.abc import Sequence

import numpy as np

from flows.demo import GroupChange
from infra.engines.released import load_released
from infra.settings import settings
from tasks.metrics.classification import likeliest_classes
from tasks.metrics.embeddings import cosine, safety_decisions
from tasks.models.catalog import RegisteredModel, open_model
from tasks.models.inputs import run_all
from tasks.records import ReleaseRef, Request, Tensor
from tasks.specs.spec import Task
from tasks.traffic.storage.codec import from_parquet
from tasks.validation.report import from_json


def compare(
    model_name: str, window: str, before: ReleaseRef, after: ReleaseRef
) -> list[GroupChange]:
    """Return one row per domain (images) or language (texts) of a stored window.

    Images have agreement with full precision's class; flips are the classes that differ. Texts have
    the cosine to full precision; flips are decisions of the safety head that differ.
    """
    model = open_model(model_name)
    requests = from_parquet(settings().store().get(window), where=window)
    reference = run_all(model.reference, model.inputs, [item.payload for item in requests])
    old, new = (_scores(model, release, requests, reference) for release in (before, after))
    groups = [
        item.domain if model.spec.task is Task.IMAGE_CLASSIFICATION else item.language
        for item in requests
    ]
    latency, size = (_ratio(after, metric) for metric in ("latency-ratio", "size-ratio"))
    rows = []
    for group in sorted(set(groups)):
        of_group = np.asarray([item == group for item in groups])
        rows.append(
            GroupChange(
                model_name,
                group,
                "agreement" if model.spec.task is Task.IMAGE_CLASSIFICATION else "cosine",
                float(old[0][of_group].mean()),
                float(new[0][of_group].mean()),
                int(old[1][of_group].sum()),
                int(new[1][of_group].sum()),
                latency,
                size,
            )
        )
    return rows


def _scores(
    model: RegisteredModel, release: ReleaseRef, requests: Sequence[Request], reference: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return quality and flips of every request, [requests] each."""
    engine = load_released(settings().release(release.model, release.digest), model.spec.targets)
    outputs = run_all(engine, model.inputs, [request.payload for request in requests])
    if model.spec.task is Task.IMAGE_CLASSIFICATION:
        flips = likeliest_classes(outputs, "champion") != likeliest_classes(
            reference, "full precision"
        )
        return 1.0 - flips, flips
    head, bias = model.golden.safety_weight, model.golden.safety_bias
    assert head is not None  # noqa: S101  # the shipped golden set has a safety head
    flips = safety_decisions(outputs, head, bias) != safety_decisions(reference, head, bias)
    return cosine(reference, outputs), flips


def _ratio(release: ReleaseRef, metric: str) -> float:
    """Return what the golden report of the release says on the CPU engine."""
    report = from_json(
        settings().release(release.model, release.digest).file("golden/onnxruntime-cpu.json")
    )
    estimates = [
        gate.estimate.value
        for gate in report.gates
        if gate.metric == metric and gate.estimate is not None
    ]
    return estimates[0] if estimates else float("nan")
