"""Run a model over requests with an observer at every site, off the serving path.

An engine on a device keeps the activations there, and there they are counted. Only counts, extremes
and the kept rows travel. Which engine watches is chosen where it is opened
(`tasks.models.catalog`), by what is present.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import DeviceEngine, Engine
from tasks.graphs.sites import Site
from tasks.models.batches import CASES
from tasks.observation.counting import Values
from tasks.observation.observer import ROWS, Observer, SiteObservation

if TYPE_CHECKING:  # a GPU host that only counts has no tokenizers
    from tasks.models.batches import Batch
    from tasks.models.inputs import Inputs
    from tasks.records import Payload


def watch(
    instrumented: Engine,
    sites: tuple[Site, ...],
    inputs: Inputs,
    payloads: Sequence[Payload],
    smoothing_scales: Mapping[str, NDArray[np.float32]] | None = None,
    rows: int = ROWS,
    cases: int = CASES,
) -> dict[str, SiteObservation]:
    """Return what every site saw of the payloads.

    With `smoothing_scales` (those of a deployed graph), what its quantizers would have seen. `rows`
    are kept at most of every site, and so many `cases` run at a time.
    """
    args = (instrumented, sites, inputs, payloads, smoothing_scales, rows, cases)
    return filled_observer(*args).result()


def filled_observer(
    instrumented: Engine,
    sites: tuple[Site, ...],
    inputs: Inputs,
    payloads: Sequence[Payload],
    smoothing_scales: Mapping[str, NDArray[np.float32]] | None = None,
    rows: int = ROWS,
    cases: int = CASES,
) -> Observer:
    """Return the observer itself, which merges with those of other batches; see `watch`."""
    observer = Observer(sites, smoothing_scales, rows)
    for batch, exposed in run_ahead(instrumented, inputs, payloads, cases):
        observer.update(exposed, batch.cases, batch.mask)
    return observer


def engine_tensors(
    engine: Engine, feeds: Mapping[str, NDArray[np.generic]]
) -> Mapping[str, Values]:
    """Return outputs and inputs together, on the device where the engine has one.

    A site may read the graph's own input.
    """
    if isinstance(engine, DeviceEngine):
        return _device_tensors(engine, feeds)
    read = {name: value for name, value in feeds.items() if value.dtype == np.float32}
    return {**read, **engine.run(feeds)}  # type: ignore[dict-item]  # float32 by the line above


def _device_tensors(
    engine: DeviceEngine, feeds: Mapping[str, NDArray[np.generic]]
) -> Mapping[str, Values]:
    import torch

    on_device = {
        name: torch.from_numpy(np.ascontiguousarray(value)).to(engine.device)
        for name, value in feeds.items()
    }
    read = {name: value for name, value in on_device.items() if value.dtype == torch.float32}
    return {**read, **engine.run_on_device(on_device)}


def run_ahead(
    engine: Engine, inputs: Inputs, payloads: Sequence[Payload], cases: int = CASES
) -> Iterator[tuple[Batch, Mapping[str, Values]]]:
    """Let the engine compute the next group while the caller counts this one.

    Counting alone leaves all cores but one idle.
    """
    parts = (part for batch in inputs.batches(payloads) for part in batch.parts(cases))
    with ThreadPoolExecutor(1, thread_name_prefix="watch") as ahead:
        before = None
        for part in parts:
            running = part, ahead.submit(engine_tensors, engine, part.feeds)
            if before is not None:
                yield before[0], before[1].result()
            before = running
        if before is not None:
            yield before[0], before[1].result()
