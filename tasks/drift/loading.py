"""What a look at a window needs, loaded from the store by name and digest."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from infra.canonical import sha256
from infra.errors import NotFound
from infra.releases import Release
from infra.settings import settings
from infra.stores import layout
from tasks.drift import look, measure
from tasks.drift.look import Deployed
from tasks.drift.season import same_hours, weeks_before
from tasks.models.catalog import RegisteredModel, source_of
from tasks.observation.archive import parse_observation
from tasks.observation.scales import parse_scales
from tasks.profiles import Profile
from tasks.profiles.frozen import FROZEN, Frozen, parse_frozen
from tasks.profiles.loading import window_profile
from tasks.records import ReleaseRef, Request, SampleRef
from tasks.traffic.storage.samples import read_requests
from tasks.traffic.storage.windows import read_window

MOST = 512
"""Requests of the weeks before that the window is compared with."""


def release_of(champion: ReleaseRef) -> Release:
    """Return the champion's release, verified."""
    return settings().release(champion.model, champion.digest)


def built_from(model: RegisteredModel, champion: ReleaseRef) -> str | None:
    """Return the digest of the graph that the champion was built from; None: no longer stored."""
    recorded = str(release_of(champion).facts["model"])
    if recorded == model.digest:
        return model.source
    try:
        return source_of(model.name, recorded)
    except NotFound:
        return None


def deployed(champion: ReleaseRef) -> Deployed:
    """Return what the champion fixed at calibration."""
    release, version = release_of(champion), champion.version
    scales = parse_scales(release.file("scales.json"), where=f"the scales of version {version}")
    observed = parse_observation(
        release.file("ranges.npz"), where=f"the ranges of version {version}"
    )
    histograms = {name: site.histogram for name, site in observed.items()}
    return Deployed(scales, histograms, _sensitivity(release.facts.get("sensitivity")))


def calibration(champion: ReleaseRef) -> str:
    """Return the digest of the champion's calibration set."""
    return str(release_of(champion).facts["calibration"])


def calibrated_on(champion: ReleaseRef) -> tuple[Request, ...]:
    """Return the champion's calibration set."""
    return read_requests(layout.calibration_set(champion.model, calibration(champion)))


def reference_of(
    model: RegisteredModel, window: SampleRef, champion: ReleaseRef
) -> tuple[tuple[Request, ...], str]:
    """Return what the window is compared with, and its digest."""
    if not look.is_seasonal(model.spec):
        return calibrated_on(champion), calibration(champion)
    drawn = _same_hours(model, window)
    return drawn, sha256("\n".join(request.request_id for request in drawn).encode())


def embeddings(
    model: RegisteredModel,
    reference: tuple[str, Sequence[Request]],
    window: tuple[str, Sequence[Request]],
) -> look.Embeddings | None:
    """Return full precision's embeddings of both, each (digest, requests); None without any.

    A draw of the weeks before is another one at every look: it is not embedded.
    """
    if look.is_seasonal(model.spec) or not measure.has_embeddings(model.spec):
        return None
    before, after = (_embedded(model, *side) for side in (reference, window))
    return before, after


def all_traffic(window: SampleRef, champion: ReleaseRef) -> tuple[Frozen, Profile] | None:
    """Return the profiles of the champion's traffic and of the window's; None in old releases."""
    release = release_of(champion)
    if FROZEN not in release.files:
        return None
    frozen = parse_frozen(release.file(FROZEN), where=f"the traffic of version {champion.version}")
    return frozen, window_profile(window).profile


def _same_hours(model: RegisteredModel, window: SampleRef) -> tuple[Request, ...]:
    rules, store = model.spec.window, settings().store()
    ends = weeks_before(datetime.fromisoformat(window.end), rules.weeks)
    weeks = (read_window(store, window.model, hours=rules.hours, until=end) for end in ends)
    drawn = same_hours((week.requests for week in weeks), MOST)
    return tuple(request for request in drawn if model.refusal(request.payload) is None)


def _embedded(
    model: RegisteredModel, digest: str, requests: Sequence[Request]
) -> NDArray[np.float32]:
    """Return the stored embeddings; each set is computed once."""
    store, key = (
        settings().store(),
        layout.embeddings(model.name, model.source, digest),
    )
    if store.exists(key):
        return np.asarray(np.load(BytesIO(store.get(key)), allow_pickle=False), np.float32)
    embedded = measure.embeddings(model.reference, model.inputs, requests)
    buffer = BytesIO()
    np.save(buffer, embedded, allow_pickle=False)
    store.put(key, buffer.getvalue())
    return embedded


def _sensitivity(recorded: object) -> dict[str, float]:
    """Return each site's measured loss, from the release's facts."""
    rows = recorded if isinstance(recorded, list) else []
    return {
        str(row["site"]): float(row["loss"])
        for row in rows
        if isinstance(row, dict) and row.get("loss") is not None
    }
