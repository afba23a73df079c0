"""What requests show of a model that is a graph: the instrumented graph runs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.settings import settings
from tasks.models.catalog import RegisteredModel
from tasks.observation.request_amax import RequestAmax, watch_amax
from tasks.observation.scales import parse_scales
from tasks.records import Payload, ReleaseRef


def watch_graph(
    model: RegisteredModel, champion: ReleaseRef | None, payloads: Sequence[Payload]
) -> RequestAmax:
    """Return each request's largest values, as the champion's smoothing scales them."""
    passed = (model.instrumented, model.sites, model.inputs, payloads)
    return watch_amax(*passed, _smoothing_scales(model, champion), model.observed_cases)


def _smoothing_scales(
    model: RegisteredModel, champion: ReleaseRef | None
) -> dict[str, NDArray[np.float32]]:
    """Return the champion's smoothing scales, where they fit the model at hand."""
    if champion is None:
        return {}
    release = settings().release(champion.model, champion.digest)
    if release.facts.get("model") != model.digest:
        return {}
    scales = parse_scales(release.file("scales.json"), where=f"scales of {champion.version}")
    return {
        name: item.smoothing_scales
        for name, item in scales.items()
        if item.smoothing_scales is not None
    }
