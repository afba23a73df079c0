"""The steps of sampling: a window's sample and the calibration set, stored under their digests."""

from contextlib import suppress
from datetime import datetime
from functools import partial

from infra.canonical import canonical, sha256
from infra.errors import BadInput, NotFound
from infra.settings import settings
from infra.stores import layout
from tasks.models.catalog import open_model, where_spread
from tasks.records import ReleaseRef, SampleRef, ThinWindow
from tasks.sampling.compose import compose
from tasks.sampling.forms import WATCHES
from tasks.sampling.scrubbing import readable, scrubbed
from tasks.sampling.shards import draw_window
from tasks.sampling.stored_samples import (
    drawn_key,
    keep_quarantined,
    keep_sample,
    read_readable,
    read_reference,
    read_sample,
)
from tasks.sampling.strata import draw
from tasks.step import step
from tasks.traffic.storage.windows import StoredRequests, read_window


@step("sample-window")
def sample_window(model: str, until: datetime | None = None) -> SampleRef | ThinWindow:
    """Draw from the newest window and store the sample, unless it has fewer rows than demanded.

    A window is read once: the same parts under the same rules give the sample that was drawn from
    them before.
    """
    registered, store = open_model(model), settings().store()
    spec = registered.spec
    rules = spec.window
    window = read_window(store, model, hours=rules.hours, until=until)
    stored, start, end = window.requests, window.start, window.end
    if start is None or end is None or not isinstance(stored, StoredRequests):
        return ThinWindow(spec.name, sha256(canonical([])), 0, rules.minimum_rows)
    source, span = sha256(canonical(sorted(stored.keys))), (start.isoformat(), end.isoformat())
    note = drawn_key(model, start, end, stored.keys, spec)
    with suppress(NotFound, BadInput):  # never drawn, or the sample was erased since
        return read_readable(store, registered, store.get(note).decode())
    drawn = draw_window(
        window, where_spread(model), size=rules.sample, tenant_share=rules.tenant_share
    )
    sample = readable(scrubbed(drawn, spec.calibration.privacy), registered.refusal)
    if len(sample.requests) < rules.minimum_rows:
        digest = sha256(canonical([*span, source]))
        return ThinWindow(spec.name, digest, len(sample.requests), rules.minimum_rows, *span)
    reference = keep_sample(
        store, layout.WINDOW, model, sample, *span, source=source, reading=registered.reading
    )
    store.put(note, reference.key.encode())
    return reference


@step("newest-sample")
def newest_sample(thin: ThinWindow) -> SampleRef:
    """Return what there is to calibrate on while traffic is thin.

    The newest window's sample that holds enough requests. Without any, a sample of the calibration
    pool; it is of no hours: it has no `start`, and no groups that are served.
    """
    model, store = open_model(thin.model), settings().store()
    keys = list(layout.WINDOW.keys(store, model=thin.model))
    stored = [read_reference(store, thin.model, key) for key in keys]
    for sample in sorted(stored, key=lambda sample: sample.end, reverse=True):
        # Some requests may have been forgotten since.
        if sample.start and len(read_sample(store, sample).requests) >= thin.minimum:
            rest = read_readable(store, model, sample.key)
            if rest.rows >= thin.minimum:
                return rest
    pool = draw(model.pool, size=model.spec.window.sample, tenant_share=1.0)
    source = sha256(model.file("pool.parquet"))
    return keep_sample(store, layout.WINDOW, thin.model, pool, "", thin.end, source=source)


@step("load-sample")
def load_sample(model: str, key: str) -> SampleRef:
    """Load a sample stored before, by its key; raises `BadInput` when it is none of this model."""
    return read_readable(settings().store(), open_model(model), key)


@step("compose-calibration-set")
def compose_calibration_set(
    model: str, window: SampleRef, champion: ReleaseRef | None = None
) -> SampleRef:
    """Compose the calibration set of a window and store it, and who was set aside.

    The champion's smoothing scales tell what its quantizers would have seen.
    """
    registered, store = open_model(model), settings().store()
    rules = registered.spec.calibration
    composed = compose(
        read_sample(store, window),
        pool=registered.pool,
        golden=registered.golden.cases,
        rules=rules,
        size=rules.size or registered.spec.window.sample,
        tenant_share=registered.spec.window.tenant_share,
        watch=partial(WATCHES.of(registered.form), registered, champion),
    )
    keep_quarantined(store, window, composed.quarantined)
    return keep_sample(
        store,
        layout.CALIBRATION,
        model,
        composed.sample,
        window.start,
        window.end,
        composed.ceilings,
        window.digest,
    )
