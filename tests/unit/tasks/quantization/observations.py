"""Observations made by running a small graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from tasks.graphs.sites import Site, expose, find_sites
from tasks.observation.observer import Observer, SiteObservation


def observe(
    model: onnx.ModelProto, x: NDArray[np.float32]
) -> tuple[tuple[Site, ...], dict[str, SiteObservation]]:
    """Return the sites of a graph, and what each saw of x [batch, ...]."""
    sites = find_sites(model)
    session = ort.InferenceSession(
        expose(model, sites).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    observer = Observer(sites)
    tensors = dict(zip(names, session.run(None, {"x": x}), strict=True)) | {"x": x}
    observer.update(tensors, np.arange(len(x)))
    return sites, observer.result()
