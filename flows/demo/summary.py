"""Champion before and after, on the traffic that changed it."""

from collections.abc import Mapping, Sequence

import numpy as np

from flows.demo import GroupChange
from infra.engines.released import load_released
from infra.settings import settings
from tasks.metrics.classification import likeliest_classes
from tasks.metrics.embeddings import cosine, safety_decisions
from tasks.models.catalog import RegisteredModel, open_model
from tasks.models.decoding.comparison import Comparison
from tasks.models.decoding.comparison import compare as compare_texts
from tasks.models.inputs import language_inputs, run_all
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


def perplexity_changes(
    model_name: str, window: str, before: ReleaseRef, after: ReleaseRef
) -> list[GroupChange]:
    """Return one row a language of a stored window, of a language model.

    The perplexity is over full precision's; flips are tokens of which another is likeliest.
    """
    requests = from_parquet(settings().store().get(window), where=window)
    latency, size = (_ratio(after, metric) for metric in ("latency-ratio", "size-ratio"))
    old, new = (_beside_reference(model_name, release, requests) for release in (before, after))
    rows = []
    for language in sorted({item.language for item in requests}):
        of_group = np.asarray([item.language == language for item in requests])
        rows.append(
            GroupChange(
                model_name,
                language,
                "perplexity ratio",
                _perplexity_ratio(old, of_group),
                _perplexity_ratio(new, of_group),
                _flipped_tokens(old, of_group),
                _flipped_tokens(new, of_group),
                latency,
                size,
            )
        )
    return rows


def _flipped_tokens(compared: Comparison, of_group: np.ndarray) -> int:
    return round(float(((1 - compared.agreement) * compared.tokens)[of_group].sum()))


def perplexity_ratios(
    model_name: str, release: ReleaseRef, requests: Sequence[Request]
) -> Mapping[str, float]:
    """Return a language model's perplexity over full precision's, by language."""
    compared = _beside_reference(model_name, release, requests)
    return {
        language: _perplexity_ratio(
            compared, np.asarray([item.language == language for item in requests])
        )
        for language in {item.language for item in requests}
    }


def _perplexity_ratio(compared: Comparison, of_group: np.ndarray) -> float:
    lost = compared.candidate_loss - compared.reference_loss
    return float(np.exp(lost[of_group].mean()))


def _beside_reference(
    model_name: str, release: ReleaseRef, requests: Sequence[Request]
) -> Comparison:
    model = open_model(model_name)
    engine = load_released(settings().release(release.model, release.digest), model.spec.targets)
    payloads = [request.payload for request in requests]
    return compare_texts(model.reference, engine, language_inputs(model.inputs), payloads)


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
