"""Prefect tasks of sampling: a window's sample and the calibration set, stored under their digests."""

import json
from collections import Counter
from dataclasses import asdict
from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.errors import BadInput, NotFound
from infra.settings import settings
from tasks.models.catalog import open_model, where_spread
from tasks.records import Request, Sample, SampleRef
from tasks.sampling.calibration import compose
from tasks.sampling.shares import draw_window
from tasks.traffic import from_parquet, read_window, to_parquet

SERVED_SHARE = 0.02
"""A domain or language with less of the sample than this does not make its golden gates binding."""


@task(name="sample-window", cache_policy=NO_CACHE)
def sample_window(model: str, until: datetime | None = None) -> SampleRef | None:
    """Draw from the newest window and store the sample; None when it has fewer rows than the spec demands."""
    rules = open_model(model).spec.window
    window = read_window(settings().store(), model, hours=rules.hours, until=until)
    sample = draw_window(window, where_spread(model), size=rules.sample, tenant_share=rules.tenant_share)
    if len(sample.requests) < rules.minimum_rows or window.start is None or window.end is None:
        return None
    return _keep("windows", model, sample, window.start.isoformat(), window.end.isoformat())


@task(name="load-sample", cache_policy=NO_CACHE)
def load_sample(model: str, key: str) -> SampleRef:
    """A sample stored before, by its key; raises `BadInput` when it is none of this model's."""
    if not key.startswith(f"windows/{model}/"):
        raise BadInput(f"{key!r} is no traffic sample of {model}: give a key that begins with windows/{model}/")
    try:
        facts = json.loads(settings().store().get(f"{key.removesuffix('.parquet')}.json"))
    except NotFound as exc:
        raise BadInput(f"no traffic sample is stored at {key}: leave the window empty to sample a new one") from exc
    return SampleRef(**{**facts, "groups": tuple(facts["groups"])})


@task(name="compose-calibration-set", cache_policy=NO_CACHE)
def compose_calibration_set(model: str, window: SampleRef) -> SampleRef:
    """The window's sample, anchored by the calibration pool, without golden cases."""
    registered = open_model(model)
    data = settings().store().get(window.key)
    sample = Sample(from_parquet(data, where=window.key), window.digest, window.seen, window.dropped)
    rules = registered.spec.window
    composed = compose(
        sample, registered.pool, golden=registered.golden.cases, size=rules.sample, tenant_share=rules.tenant_share
    )
    return _keep("calibration", model, composed, window.start, window.end)


def groups_of(requests: tuple[Request, ...]) -> tuple[str, ...]:
    """Domains and languages that make up at least SERVED_SHARE of the requests, as "domain=…" and "language=…"."""
    names = [f"domain={one.domain}" for one in requests] + [f"language={one.language}" for one in requests]
    return tuple(sorted(name for name, count in Counter(names).items() if count >= SERVED_SHARE * len(requests)))


def _keep(room: str, model: str, sample: Sample, start: str, end: str) -> SampleRef:
    store, stem = settings().store(), f"{room}/{model}/{sample.digest}"
    reference = SampleRef(
        model=model,
        digest=sample.digest,
        key=f"{stem}.parquet",
        rows=len(sample.requests),
        seen=sample.seen,
        dropped=dict(sample.dropped),
        groups=groups_of(sample.requests),
        start=start,
        end=end,
    )
    store.put(f"{stem}.json", json.dumps(asdict(reference), sort_keys=True).encode())
    store.put(reference.key, to_parquet(sample.requests))
    return reference
