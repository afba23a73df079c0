"""The steps of drift: load, look by `look.py`, and store."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from infra.errors import BadInput
from tasks.drift import evidence_store, loading, look
from tasks.drift.detectors.labelled import correct, golden_correct, live
from tasks.drift.detectors.weights import judge_weights
from tasks.drift.forms import WATCHES
from tasks.drift.look import Measured
from tasks.drift.report import publish
from tasks.models.catalog import RegisteredModel, open_model
from tasks.records import (
    Decision,
    DetectorResult,
    PastDecision,
    ReleaseRef,
    SampleRef,
)
from tasks.step import step
from tasks.traffic.storage.samples import read_requests


@step("weights-detector")
def look_at_weights(champion: ReleaseRef) -> DetectorResult:
    """Compare the registered full-precision graph with what the champion was built from."""
    model = open_model(champion.model)
    return judge_weights(loading.built_from(model, champion), model.source)


@step("input-detector")
def look_at_inputs(window: SampleRef, champion: ReleaseRef) -> DetectorResult:
    """Compare the window with the champion's calibration set, or with the weeks before."""
    model, requests = open_model(window.model), read_requests(window.key)
    reference, named = loading.reference_of(model, window, champion)
    few = look.incomparable(model.spec, len(reference), len(requests))
    if few is not None:
        return few
    vectors = loading.embeddings(model, (named, reference), (window.digest, requests))
    traffic = loading.all_traffic(window, champion)
    measured = look.inputs(model.spec, requests, reference, vectors, traffic)
    return replace(_settled(model, champion, window, measured), reference=named)


@step("range-detector")
def look_at_ranges(
    window: SampleRef, champion: ReleaseRef, stale: Sequence[str] = ()
) -> DetectorResult:
    """Observe live activations, off the serving path, against the deployed scales.

    `stale` names the layers that were stale in the window before: they have to recover clearly.
    """
    model, requests = open_model(window.model), read_requests(window.key)
    deployed, watch = loading.deployed(champion), WATCHES.of(model.form)
    live_histograms, clipping = watch.activations(model, champion, window, deployed)
    measured = look.ranges(model.spec, requests, deployed, live_histograms, clipping, stale)
    return replace(
        _settled(model, champion, window, measured), reference=loading.calibration(champion)
    )


@step("fidelity-detector")
def look_at_fidelity(window: SampleRef, champion: ReleaseRef) -> list[DetectorResult]:
    """Compare the champion with full precision, and their safety decisions with a head."""
    model, requests = open_model(window.model), read_requests(window.key)
    answers = WATCHES.of(model.form).answers(model, champion, window)
    measured = [look.fidelity(model.spec, requests, answers.scores)]
    if answers.have_outputs and (flipped := answers.flips(model.golden)) is not None:
        measured.append(look.safety(model.spec, requests, flipped))
    results = [_settled(model, champion, window, item) for item in measured]
    publish.note_worst(window, requests, answers.scores)
    return results


@step("control")
def look_at_control(window: SampleRef, champion: ReleaseRef) -> DetectorResult:
    """Judge full precision on labelled live requests, or on golden cases like the window's."""
    model = open_model(window.model)
    why_unlabelled = WATCHES.of(model.form).why_unlabelled
    if why_unlabelled is not None:
        return look.unjudged_control(model.spec, why_unlabelled)
    labelled = live(model, read_requests(window.key))
    try:
        if not look.are_enough(model.spec, labelled):
            return look.golden_control(model.spec, golden_correct(model, window.groups))
        scores = correct(model, [(request.payload, request.label or "") for request in labelled])
    except BadInput as exc:  # a label of another shape than the output
        return look.unjudged_control(model.spec, str(exc))
    return _settled(model, champion, window, look.labelled_control(model.spec, labelled, scores))


@step("decide")
def decide_window(
    window: SampleRef,
    champion: ReleaseRef,
    results: Sequence[DetectorResult],
    past: Sequence[PastDecision],
) -> Decision:
    """Decide by the table of ADR 29, and by what holds it back."""
    model = open_model(window.model)
    return look.decided(
        model.spec,
        results,
        past,
        window=window.digest,
        end=datetime.fromisoformat(window.end) if window.end else None,
        champion=champion.version,
        source=model.source,
    )


@step("drift-report")
def write_report(
    window: SampleRef, champion: ReleaseRef, decision: Decision, past: Sequence[PastDecision] = ()
) -> str:
    """Write the pages of a look, ours and Evidently's; return the key of ours."""
    reference, current = loading.calibrated_on(champion), read_requests(window.key)
    return publish.write_pages(
        window, champion, decision, past, reference=reference, current=current
    )


def _settled(
    model: RegisteredModel, champion: ReleaseRef, window: SampleRef, measured: Measured
) -> DetectorResult:
    """Count the window to the stored evidence about this champion, once, and judge by it."""
    place = evidence_store.prefix(model.name, champion.digest, model.source, measured.detector)
    count = partial(look.counted, measured, window.digest)
    evidence, key = evidence_store.appended(place, count)
    return replace(measured.judge(evidence), evidence=key)
