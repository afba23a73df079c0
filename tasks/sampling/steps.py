"""The steps of sampling: a window's sample and the calibration set, stored under their digests."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from infra.canonical import canonical, sha256
from infra.errors import BadInput, NotFound
from infra.settings import settings
from tasks.models.catalog import RegisteredModel, open_model, where_spread
from tasks.observation.request_amax import watch_amax
from tasks.observation.scales import parse_scales
from tasks.personal_data.identifiers import require_library, scrub
from tasks.personal_data.redaction import redact
from tasks.records import GoldenCase, ReleaseRef, Request, Sample, SampleRef, ThinWindow
from tasks.sampling.calibration import anchors, offer, settle
from tasks.sampling.digest import sample_of
from tasks.sampling.judgement import covering, judge
from tasks.sampling.quarantine import Quarantined, document
from tasks.sampling.shards import draw_window
from tasks.sampling.strata import draw
from tasks.specs.spec import CalibrationSpec, ModelSpec
from tasks.step import step
from tasks.traffic import StoredRequests, from_parquet, read_window, to_parquet
from tasks.traffic.storage.sample_weights import read_weights, write_weights

DRAWING = 1
"""Version of how a window is drawn: another one draws anew from windows that were drawn before."""
SERVED_SHARE = 0.02
"""A domain or language with less of the sample than this does not make its golden gates binding."""


@step("sample-window")
def sample_window(model: str, until: datetime | None = None) -> SampleRef | ThinWindow:
    """Draw from the newest window and store the sample, unless it has fewer rows than the spec demands.

    A window is read once: the same parts under the same rules give the sample that was drawn from them before.
    """
    spec, store = open_model(model).spec, settings().store()
    rules = spec.window
    window = read_window(store, model, hours=rules.hours, until=until)
    if (
        window.start is None
        or window.end is None
        or not isinstance(window.requests, StoredRequests)
    ):
        return ThinWindow(model, sha256(canonical([])), 0, rules.minimum_rows)
    parts = canonical(sorted(window.requests.keys))
    span = (window.start.isoformat(), window.end.isoformat())
    drawn = _drawn_key(model, window.start, window.end, parts, spec)
    with suppress(NotFound, BadInput):  # never drawn, or the sample was erased since
        return load_sample.fn(model, store.get(drawn).decode())
    sample = draw_window(
        window, where_spread(model), size=rules.sample, tenant_share=rules.tenant_share
    )
    sample = _scrubbed(sample, spec.calibration)
    if len(sample.requests) < rules.minimum_rows:
        digest = sha256(canonical([*span, sha256(parts)]))
        return ThinWindow(model, digest, len(sample.requests), rules.minimum_rows, *span)
    kept = _keep("windows", model, sample, *span, source=sha256(parts))
    store.put(drawn, kept.key.encode())
    return kept


@step("newest-sample")
def newest_sample(thin: ThinWindow) -> SampleRef:
    """What there is to calibrate on while traffic is thin: the newest window's sample that holds enough requests.

    Without any, a sample of the calibration pool; it is of no hours: it has no `start`, and no groups that are served.
    """
    model, store = open_model(thin.model), settings().store()
    keys = [key for key in store.list(f"windows/{thin.model}/") if key.endswith(".parquet")]
    stored = sorted(
        (load_sample.fn(thin.model, key) for key in keys), key=lambda one: one.end, reverse=True
    )
    for one in stored:
        if (
            one.start and len(_stored(one).requests) >= thin.minimum
        ):  # some may have been forgotten since
            return one
    pool = draw(model.pool, size=model.spec.window.sample, tenant_share=1.0)
    return _keep(
        "windows", thin.model, pool, "", thin.end, source=sha256(model.file("pool.parquet"))
    )


@step("load-sample")
def load_sample(model: str, key: str) -> SampleRef:
    """A sample stored before, by its key; raises `BadInput` when it is none of this model's."""
    if not key.startswith(f"windows/{model}/"):
        raise BadInput(
            f"{key!r} is no traffic sample of {model}: give a key that begins with windows/{model}/"
        )
    try:
        facts = json.loads(settings().store().get(f"{key.removesuffix('.parquet')}.json"))
    except NotFound as exc:
        raise BadInput(
            f"no traffic sample is stored at {key}: leave the window empty to sample a new one"
        ) from exc
    return SampleRef(**{**facts, "groups": tuple(facts["groups"])})


@step("compose-calibration-set")
def compose_calibration_set(
    model: str, window: SampleRef, champion: ReleaseRef | None = None
) -> SampleRef:
    """The window's sample without golden cases, near-duplicates and outliers, anchored by the calibration pool.

    What was set aside is stored at `quarantine/MODEL/WINDOW.json`. The champion's smoothing factors tell what its
    quantizers would have seen.
    """
    registered, rules = open_model(model), open_model(model).spec.calibration
    size = rules.size or registered.spec.window.sample
    sample = _stored(window)
    offered = offer(
        sample,
        registered.pool,
        golden=_scrubbed_cases(registered.golden.cases, rules),
        similarity=rules.near_duplicates,
        guardrails=rules.guardrails,
    )
    held = anchors(offered, size, rules.anchor_share)
    looks = (rules.quarantine or rules.least_support or rules.selection == "cover") and offered.live
    limits: dict[str, float] = {}
    order: tuple[Request, ...] | None = None
    if looks:
        payloads = [one.payload for one in (*offered.live, *held)]
        found = watch_amax(
            registered.instrumented,
            registered.sites,
            registered.inputs,
            payloads,
            _factors(registered, champion),
        )
        judged = judge(offered, found, sample.weights, rules)
        _set_aside(model, window, judged.quarantined)
        offered, limits = (
            offered.without({one.request_id for one in judged.quarantined}, "quarantined"),
            judged.ceilings,
        )
        if rules.selection == "cover":
            order = covering(offered, judged, size - len(held), registered.spec.window.tenant_share)
    composed = settle(
        offered,
        size=size,
        anchor_share=rules.anchor_share,
        tenant_share=registered.spec.window.tenant_share,
        order=order,
    )
    present = {one.request_id for one in composed.requests}
    standing = {name: weight for name, weight in sample.weights.items() if name in present}
    composed = replace(composed, weights=standing)
    return _keep("calibration", model, composed, window.start, window.end, limits, window.digest)


def _drawn_key(model: str, start: datetime, end: datetime, parts: bytes, spec: ModelSpec) -> str:
    """Where the key of the sample is noted that a window's parts gave under these rules."""
    rules = [spec.window.sample, spec.window.tenant_share, spec.calibration.privacy, DRAWING]
    return f"draws/{model}/{sha256(canonical([start.isoformat(), end.isoformat(), rules]) + parts)}"


def _scrubbed(sample: Sample, rules: CalibrationSpec) -> Sample:
    """Without what the library recognises, where the spec wants it: samples outlive the traffic."""
    if rules.privacy == "patterns":
        return sample
    require_library()
    clean = [
        replace(one, payload=scrub(one.payload).text) if isinstance(one.payload, str) else one
        for one in sample.requests
    ]
    return replace(
        sample_of(clean, seen=sample.seen, dropped=sample.dropped), weights=sample.weights
    )


def _scrubbed_cases(cases: Sequence[GoldenCase], rules: CalibrationSpec) -> list[GoldenCase]:
    """Golden cases also as the library would leave them: a live request that equals one is still recognised."""
    if rules.privacy == "patterns":
        return list(cases)
    texts = [
        (one, scrub(redact(one.payload).text)) for one in cases if isinstance(one.payload, str)
    ]
    return [*cases, *(replace(one, payload=found.text) for one, found in texts if found.counts)]


def _stored(window: SampleRef) -> Sample:
    store = settings().store()
    requests = from_parquet(store.get(window.key), where=window.key)
    return Sample(
        requests, window.digest, window.seen, window.dropped, read_weights(store, window.key)
    )


def _factors(
    registered: RegisteredModel, champion: ReleaseRef | None
) -> dict[str, NDArray[np.float32]]:
    """The champion's smoothing factors, where they fit the model at hand."""
    if champion is None:
        return {}
    release = settings().release(champion.model, champion.digest)
    if release.facts.get("model") != registered.digest:
        return {}
    scales = parse_scales(
        release.file("scales.json"), where=f"the scales of version {champion.version}"
    )
    return {
        name: item.smoothing_scales
        for name, item in scales.items()
        if item.smoothing_scales is not None
    }


def _set_aside(model: str, window: SampleRef, found: Sequence[Quarantined]) -> None:
    if found:
        key = f"quarantine/{model}/{window.digest}.json"
        settings().store().put(
            key, json.dumps(document(found, window.digest), sort_keys=True).encode()
        )


def groups_of(requests: tuple[Request, ...]) -> tuple[str, ...]:
    """Domains and languages that make up at least SERVED_SHARE of the requests, as "domain=…" and "language=…"."""
    names = [f"domain={one.domain}" for one in requests] + [
        f"language={one.language}" for one in requests
    ]
    return tuple(
        sorted(
            name for name, count in Counter(names).items() if count >= SERVED_SHARE * len(requests)
        )
    )


def _keep(
    room: str,
    model: str,
    sample: Sample,
    start: str,
    end: str,
    ceilings: Mapping[str, float] | None = None,
    source: str = "",
) -> SampleRef:
    store, stem = settings().store(), f"{room}/{model}/{sample.digest}"
    reference = SampleRef(
        model=model,
        digest=sample.digest,
        key=f"{stem}.parquet",
        rows=len(sample.requests),
        seen=sample.seen,
        dropped=dict(sample.dropped),
        groups=groups_of(sample.requests)
        if start
        else (),  # of no hours: what is served is unknown, all groups bind
        start=start,
        end=end,
        ceilings=dict(ceilings or {}),
        source=source,
    )
    write_weights(store, reference.key, sample.weights)
    store.put(f"{stem}.json", json.dumps(asdict(reference), sort_keys=True).encode())
    store.put(reference.key, to_parquet(sample.requests))
    return reference
