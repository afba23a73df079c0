"""How samples are stored: the requests, their weights, and a reference that tells what they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from infra.canonical import canonical, sha256
from infra.errors import BadInput, NotFound
from infra.identifiers import ModelName
from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks.models.catalog import RegisteredModel
from tasks.observation.ceilings import Ceilings, stored_ceilings
from tasks.records import Sample, SampleRef
from tasks.sampling.quarantine import Quarantined, document
from tasks.sampling.scrubbing import readable
from tasks.specs.groups import served_groups
from tasks.specs.spec import ModelSpec
from tasks.traffic.storage.codec import to_parquet
from tasks.traffic.storage.sample_weights import read_weights, write_weights
from tasks.traffic.storage.samples import read_requests

DRAWING = 1
"""Version of how a window is drawn: another one draws anew from windows that were drawn before."""


def keep_sample(
    store: ObjectStore,
    kind: layout.ObjectKind,
    model: str,
    sample: Sample,
    start: str = "",
    end: str = "",
    ceilings: Ceilings | None = None,
    source: str = "",
    reading: str = "",
) -> SampleRef:
    """Store a sample under its digest, and return its reference.

    Args:
        store: Where to.
        kind: `layout.WINDOW` or `layout.CALIBRATION`.
        model: Whose.
        sample: The requests with their weights.
        start: ISO 8601, of the window; "" for a sample of no hours.
        end: ISO 8601, of the window.
        ceilings: What no range may go beyond.
        source: Digest of what it was drawn from.
        reading: Digest of what the model reads, which the requests were held against.
    """
    key = kind.key(model=model, digest=sample.digest)
    reference = SampleRef(
        model=ModelName(model),
        digest=sample.digest,
        key=key,
        rows=len(sample.requests),
        seen=sample.seen,
        dropped=dict(sample.dropped),
        # Of no hours: what is served is unknown, and all groups bind.
        groups=served_groups(sample.requests) if start else (),
        start=start,
        end=end,
        ceilings=stored_ceilings(ceilings or {}),
        source=source,
        reading=reading,
    )
    write_weights(store, reference.key, sample.weights)
    store.put(layout.sample_facts(key), json.dumps(asdict(reference), sort_keys=True).encode())
    store.put(reference.key, to_parquet(sample.requests))
    return reference


def read_reference(store: ObjectStore, model: str, key: str) -> SampleRef:
    """Read the reference of a window's sample; raises `BadInput` when it is none of this model."""
    folder = layout.WINDOW.prefix(model=model)
    if not key.startswith(folder):
        raise BadInput(
            f"{key!r} is no traffic sample of {model}: give a key that begins with {folder}"
        )
    try:
        facts = json.loads(store.get(layout.sample_facts(key)))
    except NotFound as exc:
        raise BadInput(
            f"no traffic sample is stored at {key}: leave the window empty to sample a new one"
        ) from exc
    return SampleRef(**{**facts, "groups": tuple(facts["groups"])})


def read_readable(store: ObjectStore, model: RegisteredModel, key: str) -> SampleRef:
    """Read the reference of a window's sample, without what the model cannot read any more.

    It may have another chat template or other inputs than when the sample was drawn.

    Raises:
        BadInput: as `read_reference` does.
    """
    reference = read_reference(store, model.name, key)
    if reference.reading == model.reading:
        return reference
    rest = readable(read_sample(store, reference), model.refusal)
    span, source = (reference.start, reference.end), reference.source
    return keep_sample(
        store, layout.WINDOW, model.name, rest, *span, source=source, reading=model.reading
    )


def read_sample(store: ObjectStore, reference: SampleRef) -> Sample:
    """Read the requests of a stored sample, with their weights."""
    requests = read_requests(reference.key)
    weights = read_weights(store, reference.key)
    return Sample(requests, reference.digest, reference.seen, reference.dropped, weights)


def drawn_key(
    model: str, start: datetime, end: datetime, parts: Sequence[str], spec: ModelSpec
) -> str:
    """Return where the key of the sample is noted that a window's parts gave under these rules."""
    rules = [spec.window.sample, spec.window.tenant_share, spec.calibration.privacy, DRAWING]
    span = canonical([start.isoformat(), end.isoformat(), rules])
    return layout.draw(model, sha256(span + canonical(sorted(parts))))


def keep_quarantined(store: ObjectStore, window: SampleRef, out: Sequence[Quarantined]) -> None:
    """Store who was set aside, and why, at `quarantine/MODEL/WINDOW.json`; nothing for nobody."""
    if out:
        key = layout.quarantine(window.model, window.digest)
        content = json.dumps(document(out, window.digest), sort_keys=True)
        store.put(key, content.encode())
