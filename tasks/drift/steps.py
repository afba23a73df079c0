"""Prefect tasks of drift: look at one window through each lens, decide, and write the report."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.engines.released import load_released
from infra.settings import settings
from tasks.drift.control import control_lens
from tasks.drift.decision import decide
from tasks.drift.fidelity import fidelity_lens, safety_lens
from tasks.drift.input import input_lens
from tasks.drift.intervals import alpha_at
from tasks.drift.labelled import recognised, transcribed
from tasks.drift.range import range_lens
from tasks.drift.report import drift_report, lens_page
from tasks.models.agreement import token_agreement
from tasks.models.catalog import RegisteredModel, open_model
from tasks.models.golden import positions, relevant_rows
from tasks.models.inputs import run_all
from tasks.models.language.answers import exact_match
from tasks.models.scoring import accuracy, fidelity, fidelity_metric, recall_at_k, safety_decisions
from tasks.models.spec import Budgets, Task
from tasks.models.traits import TRAITS
from tasks.observation.archive import parse_observation
from tasks.observation.scales import parse_scales
from tasks.observation.watch import watch
from tasks.records import CaseKind, Decision, GoldenCase, LensReading, ReleaseRef, Request, SampleRef
from tasks.traffic import from_parquet

PER_MILLE = 1000
LABELLED = 20
"""So many labelled live requests speak for the window; with fewer, golden cases of its domains do."""


@task(name="input-lens", cache_policy=NO_CACHE)
def look_at_inputs(window: SampleRef, champion: ReleaseRef) -> LensReading:
    """The window beside what the champion was calibrated on."""
    return input_lens(_calibrated_on(champion), _requests(window.key))


@task(name="range-lens", cache_policy=NO_CACHE)
def look_at_ranges(window: SampleRef, champion: ReleaseRef) -> LensReading:
    """Live activations, observed off the serving path, against the deployed scales."""
    model, release = open_model(window.model), settings().release(champion.model, champion.digest)
    scales = parse_scales(release.file("scales.json"), where=f"the scales of version {champion.version}")
    reference = parse_observation(release.file("ranges.npz"), where=f"the ranges of version {champion.version}")
    divisors = {name: item.divisors for name, item in scales.items() if item.divisors is not None}
    requests = _requests(window.key)
    sites = tuple(site for site in model.sites if site.name in scales)
    seen = watch(model.instrumented, sites, model.inputs, [one.payload for one in requests], divisors)
    return range_lens(
        {name: item.histogram for name, item in seen.items()},
        {name: item.histogram for name, item in reference.items()},
        {name: item.amax for name, item in scales.items()},
        count=len(requests),
        minimum=model.spec.window.minimum_rows,
    )


@task(name="fidelity-lens", cache_policy=NO_CACHE)
def look_at_fidelity(window: SampleRef, champion: ReleaseRef, look: int) -> list[LensReading]:
    """The champion's engine against full precision on the window; with a safety head, its decisions too.

    `look` counts the looks since the champion was promoted: all of them together keep the false-alarm rate.
    """
    model, requests = open_model(window.model), _requests(window.key)
    if TRAITS[model.spec.task].per_token:
        return [_agreement(model, requests, champion, look)]
    payloads = [one.payload for one in requests]
    expected = run_all(model.reference, model.inputs, payloads)
    engine = load_released(settings().release(champion.model, champion.digest), model.spec.targets)
    served = run_all(engine, model.inputs, payloads)
    readings = [
        fidelity_lens(
            fidelity(model.spec.task, expected, served),
            _masks(requests),
            limit=partial(_limit, model.spec.budgets),
            metric=fidelity_metric(model.spec.task),
            alpha=alpha_at(look),
        )
    ]
    golden = model.golden
    if golden.safety_weight is not None:
        before, after = (safety_decisions(one, golden.safety_weight, golden.safety_bias) for one in (expected, served))
        budget = round(model.spec.budgets.live_safety_flips * PER_MILLE)
        flips = int((before != after).sum())
        readings.append(safety_lens(flips, len(requests), budget, budget_count=PER_MILLE, alpha=alpha_at(look)))
    return readings


def _agreement(model: RegisteredModel, requests: Sequence[Request], champion: ReleaseRef, look: int) -> LensReading:
    """Where tokens are written: the share of a request's after which both find the same next token likeliest."""
    engine = load_released(settings().release(champion.model, champion.digest), model.spec.targets)
    found = token_agreement(model.reference, engine, model.inputs, [one.payload for one in requests])
    limit = partial(_limit, model.spec.budgets)
    return fidelity_lens(found, _masks(requests), limit=limit, metric="agreement", alpha=alpha_at(look))


@task(name="control", cache_policy=NO_CACHE)
def look_at_control(window: SampleRef) -> LensReading:
    """Full precision on labelled live requests, or on golden cases of the window's domains and languages."""
    model, requests = open_model(window.model), _requests(window.key)
    rule = model.spec.control
    metric, floor = (rule.metric, rule.at_least) if rule else ("accuracy", None)
    correct = CONTROLS[model.spec.task](model, requests, window.groups)
    return control_lens(correct, metric=metric, floor=floor)


@task(name="decide", cache_policy=NO_CACHE)
def decide_window(window: SampleRef, readings: Sequence[LensReading]) -> Decision:
    """The decision table of DESIGN.md, D3."""
    return decide(readings, window_digest=window.digest)


@task(name="drift-report", cache_policy=NO_CACHE)
def write_report(window: SampleRef, champion: ReleaseRef, decision: Decision) -> str:
    """Our page of the lenses and Evidently's of the sample: stored, and logged to MLflow; returns our page's key."""
    pages = {
        "lenses.html": lens_page(decision),
        "evidently.html": drift_report(_calibrated_on(champion), _requests(window.key)),
    }
    prefix = f"reports/{window.model}/{window.digest[:16]}"
    for name, page in pages.items():
        settings().store().put(f"{prefix}/{name}", page)
    settings().registry().log_run(
        window.model,
        f"drift {window.digest[:8]}",
        params={"window": window.digest, "champion": champion.version},
        metrics={"rows": float(window.rows)},
        tags={"decision": decision.action.value, **{f"lens.{one.lens}": one.health.value for one in decision.readings}},
        artifacts=pages,
    )
    return f"{prefix}/lenses.html"


def _requests(key: str) -> tuple[Request, ...]:
    return from_parquet(settings().store().get(key), where=key)


def _calibrated_on(champion: ReleaseRef) -> tuple[Request, ...]:
    release = settings().release(champion.model, champion.digest)
    return _requests(f"calibration/{champion.model}/{release.facts['calibration']}.parquet")


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
        rules = sorted(budgets.quality, key=lambda rule: rule.metric == "flips")  # only where nothing bounds it itself
        for rule in rules:
            if rule.group == wanted and rule.metric in ("cosine", "agreement"):
                return rule.at_least
            if rule.group == wanted and rule.metric == "flips" and rule.at_most is not None:
                return 1 - rule.at_most
    return None


def _correct(model: RegisteredModel, requests: Sequence[Request], groups: Sequence[str]) -> NDArray[np.float64]:
    labelled = [(one.payload, int(one.label)) for one in requests if one.label is not None and one.label.isdigit()]
    if len(labelled) < LABELLED:
        labelled = [
            (case.payload, int(case.label))
            for case in model.golden.cases
            if case.label is not None and f"domain={case.domain}" in groups
        ]
    if not labelled:
        return np.zeros(0)
    logits = run_all(model.reference, model.inputs, [payload for payload, _ in labelled])
    return accuracy(logits, np.asarray([label for _, label in labelled]))


def _answered(model: RegisteredModel, _: Sequence[Request], groups: Sequence[str]) -> NDArray[np.float64]:
    """Whether full precision answers golden questions of the window's domains and languages exactly."""
    cases = model.golden.cases
    asked = [
        place
        for place in positions(cases, CaseKind.ANSWER).tolist()
        if cases[place].label is not None and set(_groups(cases[place])) <= set(groups)
    ]
    return np.array([exact_match(cases[place].label or "", model.golden_answers[place]) for place in asked])


def _recalled(model: RegisteredModel, _: Sequence[Request], groups: Sequence[str]) -> NDArray[np.float64]:
    """Recall of full precision on golden queries whose domain and language the window holds."""
    cases, outputs = model.golden.cases, model.golden_reference
    passages = positions(cases, CaseKind.PASSAGE)
    queries = positions(cases, CaseKind.QUERY)
    queries = queries[[set(_groups(cases[place])) <= set(groups) for place in queries]]
    if not queries.size:
        return np.zeros(0)
    return recall_at_k(outputs[queries], outputs[passages], relevant_rows(cases, queries, passages))


CONTROLS: Mapping[Task, Callable[[RegisteredModel, Sequence[Request], Sequence[str]], NDArray[np.float64]]] = {
    Task.TEXT_EMBEDDING: _recalled,
    Task.IMAGE_CLASSIFICATION: _correct,
    Task.IMAGE_EMBEDDING: recognised,
    Task.SPEECH_RECOGNITION: transcribed,
    Task.CAUSAL_LM: _answered,
}
"""Whether full precision is right on labelled requests, or golden cases, like the window's."""
