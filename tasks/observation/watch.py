"""Run a model over requests with an observer at every site, off the serving path."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.models.inputs import Inputs
from tasks.observation.observer import Observer, SiteObservation
from tasks.observation.sites import Site
from tasks.records import Payload


def watch(
    instrumented: Engine,
    sites: tuple[Site, ...],
    inputs: Inputs,
    payloads: Sequence[Payload],
    divisors: Mapping[str, NDArray[np.float32]] | None = None,
) -> dict[str, SiteObservation]:
    """What every site saw; with `divisors` (a deployed graph's smoothing), what its quantizers would have seen."""
    observer = Observer(sites, divisors)
    for batch in inputs.batches(payloads):
        exposed = dict(engine_tensors(instrumented, batch.feeds))
        observer.update(exposed, batch.cases, batch.mask)
    return observer.result()


def engine_tensors(engine: Engine, feeds: Mapping[str, NDArray[np.generic]]) -> Mapping[str, NDArray[np.float32]]:
    """Outputs and inputs together: a site may read the graph's own input."""
    given = {name: value for name, value in feeds.items() if value.dtype == np.float32}
    return {**given, **engine.run(feeds)}  # type: ignore[dict-item]  # float32 by the line above
