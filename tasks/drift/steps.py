"""The steps of drift: look at one window through each detector, decide, and write the report."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from infra.canonical import Json, sha256
from infra.engines.released import load_released
from infra.errors import NotFound
from infra.settings import settings
from infra.stores import layout
from tasks.drift import dossier
from tasks.drift.decision import decide, recalibrates
from tasks.drift.detectors.control import control_increments, judge_control
from tasks.drift.detectors.fidelity import (
    fidelity_increments,
    judge_fidelity,
    judge_safety,
    safety_increments,
)
from tasks.drift.detectors.input import EFFECT, MINIMUM, input_increments, judge_tables, too_few
from tasks.drift.detectors.labelled import ENOUGH, correct, golden_correct, live
from tasks.drift.detectors.range import judge_ranges, range_increments
from tasks.drift.detectors.tables import tables
from tasks.drift.detectors.weights import judge_weights
from tasks.drift.detectors.whole_traffic import whole_traffic
from tasks.drift.evidence import Alarms, Evidence, is_fresh, with_window
from tasks.drift.report.page import Look, Worst, detector_page, drift_report, store_snapshot
from tasks.drift.restraint import restrained
from tasks.drift.rules import alarms, restraint
from tasks.drift.season import same_hours, weeks_before
from tasks.drift.statistics.streams import Increment
from tasks.metrics.embeddings import safety_decisions
from tasks.metrics.fidelity import fidelity, fidelity_metric
from tasks.models.catalog import RegisteredModel, open_model, source_of
from tasks.models.inputs import run_all
from tasks.models.token_agreement import token_agreement
from tasks.observation.archive import parse_observation
from tasks.observation.clipped_fraction import watch_clipping
from tasks.observation.scales import parse_scales
from tasks.profiles.frozen import FROZEN, parse_frozen
from tasks.profiles.steps import window_profile
from tasks.records import (
    STORED_DETECTOR,
    STORED_DETECTORS,
    Decision,
    DetectorResult,
    Finding,
    GoldenCase,
    PastDecision,
    ReleaseRef,
    Request,
    SampleRef,
    ThinWindow,
)
from tasks.specs.spec import Budgets, ModelSpec
from tasks.specs.traits import TRAITS
from tasks.step import flow_run_id, step
from tasks.traffic import from_parquet, read_window

PER_MILLE = 1000
PAGE = f"{STORED_DETECTORS}.html"
"""What is called so in the store: the page of the detectors."""
MOST = 512
"""Requests of the weeks before that the window is compared with."""
EXAMPLES = 8
"""Requests that scored worst, for the report."""


@step("weights-detector")
def look_at_weights(champion: ReleaseRef) -> DetectorResult:
    """The registered full-precision graph beside the one that the champion was built from."""
    model = open_model(champion.model)
    recorded = str(settings().release(champion.model, champion.digest).facts["model"])
    if recorded == model.digest:
        return judge_weights(model.source, model.source)
    try:
        return judge_weights(source_of(model.name, recorded), model.source)
    except NotFound:
        return judge_weights(None, model.source)


@step("input-detector")
def look_at_inputs(window: SampleRef, champion: ReleaseRef) -> DetectorResult:
    """The window beside what the champion was calibrated on, or beside the same hours of the weeks before."""
    model, requests = open_model(window.model), _requests(window.key)
    seasonal = model.spec.window.reference == "same-hour-of-week"
    reference = _weeks_before(model.spec, window) if seasonal else _calibrated_on(champion)
    if min(len(reference), len(requests)) < MINIMUM:
        weeks = model.spec.window.weeks
        why = f"; the reference is the same hours of the last {weeks} weeks" if seasonal else ""
        return too_few(len(reference), len(requests), MINIMUM, why)
    vectors = None if seasonal else _embeddings(model, window, champion, reference, requests)
    found, rules = tables(reference, requests, vectors), alarms(model.spec, "input")

    def increments(fresh: Sequence[bool]) -> dict[str, Increment]:
        newer = [one for one, is_new in zip(requests, fresh, strict=True) if is_new]
        if not newer:
            return {}
        part = found
        if len(newer) < len(requests):
            rows = None if vectors is None else (vectors[0], vectors[1][np.asarray(fresh)])
            part = tables(reference, newer, rows)
        return input_increments(
            found, {name: table.current for name, table in part.items() if name in found}
        )

    evidence, key = _count(model, champion, "input", window, requests, increments, rules)
    result = judge_tables(found, evidence, len(requests), rules)
    findings = (*result.findings, *_all_traffic(window, champion))
    named = _named(reference) if seasonal else _calibration(champion)
    return replace(result, findings=findings, evidence=key, reference=named)


@step("range-detector")
def look_at_ranges(
    window: SampleRef, champion: ReleaseRef, stale: Sequence[str] = ()
) -> DetectorResult:
    """Live activations, observed off the serving path, against the deployed scales.

    `stale` names the layers that were stale in the window before: they have to recover clearly.
    """
    model, release = open_model(window.model), settings().release(champion.model, champion.digest)
    scales = parse_scales(
        release.file("scales.json"), where=f"the scales of version {champion.version}"
    )
    reference = parse_observation(
        release.file("ranges.npz"), where=f"the ranges of version {champion.version}"
    )
    smoothing_scales = {
        name: item.smoothing_scales
        for name, item in scales.items()
        if item.smoothing_scales is not None
    }
    requests, rules = _requests(window.key), alarms(model.spec, "range")
    sites = tuple(site for site in model.sites if site.name in scales)
    payloads, amax = (
        [one.payload for one in requests],
        {name: item.amax for name, item in scales.items()},
    )
    seen, clipping = watch_clipping(
        model.instrumented, sites, model.inputs, payloads, amax, smoothing_scales
    )
    before = {name: item.histogram for name, item in reference.items()}

    def increments(fresh: Sequence[bool]) -> dict[str, Increment]:
        return range_increments(clipping.rows(np.asarray(fresh, bool)), before, amax)

    evidence, key = _count(model, champion, "range", window, requests, increments, rules)
    result = judge_ranges(
        {name: item.histogram for name, item in seen.items()},
        before,
        amax,
        clipping,
        minimum=model.spec.window.minimum_rows,
        sensitivity=_sensitivity(release.facts.get("sensitivity")),
        held=dict.fromkeys(stale, model.spec.drift.recover),
        evidence=evidence,
        rules=rules,
    )
    return replace(result, evidence=key, reference=_calibration(champion))


@step("fidelity-detector")
def look_at_fidelity(window: SampleRef, champion: ReleaseRef) -> list[DetectorResult]:
    """The champion's engine against full precision on the window; with a safety head, its decisions too."""
    model, requests = open_model(window.model), _requests(window.key)
    if TRAITS[model.spec.task].per_token:
        return [_agreement(model, window, requests, champion)]
    payloads = [one.payload for one in requests]
    expected = run_all(model.reference, model.inputs, payloads)
    engine = load_released(settings().release(champion.model, champion.digest), model.spec.targets)
    served = run_all(engine, model.inputs, payloads)
    scores = fidelity(model.spec.task, expected, served)
    results = [_judge(model, window, requests, champion, scores, fidelity_metric(model.spec.task))]
    golden = model.golden
    if golden.safety_weight is not None:
        before, after = (
            safety_decisions(one, golden.safety_weight, golden.safety_bias)
            for one in (expected, served)
        )
        results.append(_judge_safety(model, window, requests, champion, before != after))
    return results


def _agreement(
    model: RegisteredModel, window: SampleRef, requests: Sequence[Request], champion: ReleaseRef
) -> DetectorResult:
    """Where tokens are written: the share of a request's after which both find the same next token likeliest."""
    engine = load_released(settings().release(champion.model, champion.digest), model.spec.targets)
    found = token_agreement(
        model.reference, engine, model.inputs, [one.payload for one in requests]
    )
    return _judge(model, window, requests, champion, found, "agreement")


def _judge(
    model: RegisteredModel,
    window: SampleRef,
    requests: Sequence[Request],
    champion: ReleaseRef,
    scores: NDArray[np.float64],
    metric: str,
) -> DetectorResult:
    limit, groups, rules = (
        partial(_limit, model.spec.budgets),
        _masks(requests),
        alarms(model.spec, "fidelity"),
    )

    def increments(fresh: Sequence[bool]) -> dict[str, Increment]:
        newer = np.asarray(fresh, bool)
        return fidelity_increments(
            scores[newer], {name: mask[newer] for name, mask in groups.items()}, limit
        )

    evidence, key = _count(model, champion, "fidelity", window, requests, increments, rules)
    _note_worst(window, requests, scores)
    result = judge_fidelity(
        scores, groups, limit=limit, metric=metric, evidence=evidence, rules=rules
    )
    return replace(result, evidence=key)


def _judge_safety(
    model: RegisteredModel,
    window: SampleRef,
    requests: Sequence[Request],
    champion: ReleaseRef,
    flipped: NDArray[np.bool_],
) -> DetectorResult:
    budget, rules = (
        round(model.spec.budgets.live_safety_flips * PER_MILLE),
        alarms(model.spec, "safety"),
    )

    def increments(fresh: Sequence[bool]) -> dict[str, Increment]:
        return safety_increments(flipped[np.asarray(fresh, bool)], budget / PER_MILLE)

    evidence, key = _count(model, champion, "safety", window, requests, increments, rules)
    result = judge_safety(
        int(flipped.sum()),
        len(requests),
        budget,
        budget_count=PER_MILLE,
        evidence=evidence,
        rules=rules,
    )
    return replace(result, evidence=key)


@step("control")
def look_at_control(window: SampleRef, champion: ReleaseRef) -> DetectorResult:
    """Full precision on labelled live requests, or on golden cases of the window's domains and languages."""
    model, requests = open_model(window.model), _requests(window.key)
    rule = model.spec.control
    metric, floor = (rule.metric, rule.at_least) if rule else ("accuracy", None)
    labelled = live(model, requests)
    if len(labelled) >= ENOUGH and floor is not None:
        return _judge_labelled(model, window, labelled, champion, metric, floor)
    return judge_control(golden_correct(model, window.groups), metric=metric, floor=floor)


def _judge_labelled(
    model: RegisteredModel,
    window: SampleRef,
    labelled: Sequence[Request],
    champion: ReleaseRef,
    metric: str,
    floor: float,
) -> DetectorResult:
    scores = correct(model, [(one.payload, one.label or "") for one in labelled])

    def increments(fresh: Sequence[bool]) -> dict[str, Increment]:
        return control_increments(scores[np.asarray(fresh, bool)], floor)

    rules = alarms(model.spec, "control")
    evidence, key = _count(model, champion, "control", window, labelled, increments, rules)
    return replace(
        judge_control(scores, metric=metric, floor=floor, evidence=evidence, rules=rules),
        evidence=key,
    )


@step("decide")
def decide_window(
    window: SampleRef,
    champion: ReleaseRef,
    results: Sequence[DetectorResult],
    past: Sequence[PastDecision],
) -> Decision:
    """The decision table of ADR 29, and what holds it back."""
    decision = decide(results, window_digest=window.digest)
    model = open_model(window.model)
    rules, end = restraint(model.spec), datetime.fromisoformat(window.end) if window.end else None
    return restrained(
        decision, past, rules, end=end, champion=champion.version, source=model.source
    )


@step("drift-report")
def write_report(
    window: SampleRef, champion: ReleaseRef, decision: Decision, past: Sequence[PastDecision] = ()
) -> str:
    """Our page of the detectors and Evidently's of the sample: stored, and logged to MLflow; returns our page's key.

    Evidently's snapshot goes into its workspace, which `requant up` serves.
    """
    before, requests = _calibrated_on(champion), _requests(window.key)
    snapshot = drift_report(before, requests, Look(window, champion.version, decision))
    pages = {
        PAGE: detector_page(decision, past, _worst(window, requests)),
        "evidently.html": snapshot.html,
    }
    store_snapshot(snapshot, settings().root / "evidently", window.model, window.digest)
    for name, page in pages.items():
        settings().store().put(layout.report(window.model, window.digest, name), page)
    settings().registry().log_run(
        window.model,
        f"drift {window.digest[:8]}",
        params={"window": window.digest, "champion": champion.version},
        metrics={"rows": float(window.rows)},
        tags={
            "decision": decision.action.value,
            "attribution": decision.attribution,
            "window": window.digest,
            **({"flow_run": run} if (run := flow_run_id()) else {}),
            **{f"{STORED_DETECTOR}.{one.detector}": one.health.value for one in decision.results},
        },
        artifacts=pages,
    )
    return layout.report(window.model, window.digest, PAGE)


def written_report(window: SampleRef) -> str | None:
    """The key of the window's page of the detectors; None when it has none."""
    key = layout.report(window.model, window.digest, PAGE)
    return key if settings().store().exists(key) else None


def basis(window: SampleRef | ThinWindow, decision: Decision) -> dict[str, Json]:
    """What a decision rests on, by digest: the full-precision graph, each detector's reference and evidence document."""
    return {
        "source": open_model(window.model).source,
        "builds": recalibrates(decision),
        "references": {one.detector: one.reference for one in decision.results if one.reference},
        "evidence": {
            one.detector: {"key": one.evidence, "digest": dossier.digest(one.evidence)}
            for one in decision.results
            if one.evidence
        },
    }


def _count(
    model: RegisteredModel,
    champion: ReleaseRef,
    detector: str,
    window: SampleRef,
    requests: Sequence[Request],
    increments: Callable[[Sequence[bool]], dict[str, Increment]],
    rules: Alarms,
) -> tuple[Evidence, str]:
    """Add the window to the detector's evidence about this champion, once."""
    until = max((one.time for one in requests), default=None)
    mark = window.digest[:16]

    def add(before: Evidence) -> Evidence:
        if mark in before.windows:
            return before
        return with_window(before, mark, until, increments(is_fresh(before, mark, requests)), rules)

    return dossier.counted(dossier.prefix(model.name, champion.digest, model.source, detector), add)


def _all_traffic(window: SampleRef, champion: ReleaseRef) -> tuple[Finding, ...]:
    release = settings().release(champion.model, champion.digest)
    if FROZEN not in release.files:  # released before traffic was profiled
        return ()
    frozen = parse_frozen(release.file(FROZEN), where=f"the traffic of version {champion.version}")
    return whole_traffic(frozen, window_profile(window).profile, EFFECT)


def _weeks_before(spec: ModelSpec, window: SampleRef) -> tuple[Request, ...]:
    ends = weeks_before(datetime.fromisoformat(window.end), spec.window.weeks)
    store, hours = settings().store(), spec.window.hours
    return same_hours(
        (read_window(store, window.model, hours=hours, until=end).requests for end in ends), MOST
    )


def _embeddings(
    model: RegisteredModel,
    window: SampleRef,
    champion: ReleaseRef,
    reference: Sequence[Request],
    requests: Sequence[Request],
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Full precision's embeddings of both sides; each side is computed once and kept."""
    if TRAITS[model.spec.task].fidelity != "cosine":  # no embedding comes out
        return None
    sides = ((_calibration(champion), reference), (window.digest, requests))
    before, after = (_embedded(model, name, side) for name, side in sides)
    return before, after


def _embedded(
    model: RegisteredModel, name: str, requests: Sequence[Request]
) -> NDArray[np.float32]:
    store, key = settings().store(), layout.embeddings(model.name, model.source, name)
    if store.exists(key):
        return np.asarray(np.load(BytesIO(store.get(key)), allow_pickle=False), np.float32)
    found = np.asarray(
        run_all(model.reference, model.inputs, [one.payload for one in requests]), np.float32
    )
    buffer = BytesIO()
    np.save(buffer, found, allow_pickle=False)
    store.put(key, buffer.getvalue())
    return found


def _named(requests: Sequence[Request]) -> str:
    """SHA-256 over the ids of a reference that is not stored by itself."""
    return sha256("\n".join(one.request_id for one in requests).encode())


def _sensitivity(recorded: object) -> dict[str, float]:
    """Site -> measured loss, from the release's facts; sites that were not measured are left out."""
    rows = recorded if isinstance(recorded, list) else []
    return {
        str(row["site"]): float(row["loss"])
        for row in rows
        if isinstance(row, dict) and row.get("loss") is not None
    }


def _note_worst(
    window: SampleRef, requests: Sequence[Request], scores: NDArray[np.float64]
) -> None:
    """Which requests scored worst, by their ids: the page looks them up, and redacts what it shows."""
    order = np.argsort(np.nan_to_num(scores, nan=-np.inf), kind="stable")[:EXAMPLES]
    rows = [
        {"request_id": requests[place].request_id, "score": float(np.nan_to_num(scores[place]))}
        for place in order
    ]
    document = {"version": 1, "worst": rows}
    settings().store().put(
        layout.report(window.model, window.digest, "worst.json"), json.dumps(document).encode()
    )


def _worst(window: SampleRef, requests: Sequence[Request]) -> tuple[Worst, ...]:
    try:
        rows = json.loads(
            settings().store().get(layout.report(window.model, window.digest, "worst.json"))
        )["worst"]
    except NotFound:  # fidelity was not looked at
        return ()
    known = {one.request_id: one for one in requests}
    return tuple(
        Worst(known[row["request_id"]], row["score"]) for row in rows if row["request_id"] in known
    )


def _requests(key: str) -> tuple[Request, ...]:
    return from_parquet(settings().store().get(key), where=key)


def _calibrated_on(champion: ReleaseRef) -> tuple[Request, ...]:
    return _requests(layout.calibration_set(champion.model, _calibration(champion)))


def _calibration(champion: ReleaseRef) -> str:
    return str(settings().release(champion.model, champion.digest).facts["calibration"])


def _masks(requests: Sequence[Request]) -> dict[str, NDArray[np.bool_]]:
    """ "all", and each domain and language -> which requests belong to it, [requests]."""
    masks = {"all": np.ones(len(requests), bool)}
    for name in sorted({name for one in requests for name in _groups(one)}):
        masks[name] = np.asarray([name in _groups(one) for one in requests])
    return masks


def _groups(request: Request | GoldenCase) -> tuple[str, str]:
    return f"domain={request.domain}", f"language={request.language}"


def _limit(budgets: Budgets, group: str) -> float | None:
    """The least mean cosine, or agreement, that the golden gates would pass for a group."""
    for wanted in (group, None):
        rules = sorted(
            budgets.quality, key=lambda rule: rule.metric == "flips"
        )  # only where nothing bounds it itself
        for rule in rules:
            if rule.group == wanted and rule.metric in ("cosine", "agreement"):
                return rule.at_least
            if rule.group == wanted and rule.metric == "flips" and rule.at_most is not None:
                return 1 - rule.at_most
    return None
