"""How many requests of the traffic each one of a stored sample stands for, beside the sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from infra.errors import NotFound
from infra.identifiers import RequestId
from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks.records import Request


def write_weights(store: ObjectStore, sample: str, weights: Mapping[RequestId, float]) -> None:
    """Write for each request id how many it stands for; write nothing where nothing is known."""
    if weights:
        store.put(layout.sample_weights(sample), json.dumps(dict(weights), sort_keys=True).encode())


def read_weights(store: ObjectStore, sample: str) -> dict[RequestId, float]:
    """Return what was written; empty for a sample that was stored before weights were."""
    try:
        weights: dict[RequestId, float] = json.loads(store.get(layout.sample_weights(sample)))
    except NotFound:
        return {}
    return weights


def weights_of(store: ObjectStore, sample: str, requests: Sequence[Request]) -> NDArray[np.float64]:
    """Return weights in the order of the requests, [requests], > 0.

    One without a weight, as of the pool, stands for the mean.
    """
    weights = read_weights(store, sample)
    usual = float(np.mean(list(weights.values()))) if weights else 1.0
    return np.array([weights.get(request.request_id) or usual for request in requests])
