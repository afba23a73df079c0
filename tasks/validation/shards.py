"""Golden evaluation in shards that may run anywhere.

A shard is every so many-th batch of the golden cases.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from infra.canonical import sha256
from infra.cluster import open_mapper, shards_for
from infra.engines import open_target
from infra.engines.port import Engine
from infra.errors import Tampered
from infra.settings import NONE, settings
from tasks.models.batches import BATCH
from tasks.models.catalog import RegisteredModel, open_exactly
from tasks.models.inputs import BatchShard, run_batches, stacked
from tasks.records import Tensor

ANYWHERE = ("onnxruntime-cpu",)
"""Targets whose engines run on any worker; the others are judged where their device is."""


@dataclass(frozen=True, slots=True)
class GoldenEngine:
    """A built engine by name."""

    target: str
    plan: str  # key
    digest: str  # of the plan, SHA-256


@dataclass(frozen=True, slots=True)
class GoldenShard:
    """Which engine answers which batches of a model's golden cases."""

    model: str
    digest: str  # of the registered model
    engine: GoldenEngine
    index: int
    of: int


def golden_outputs(model: RegisteredModel, engine: GoldenEngine, cluster: str | None) -> Tensor:
    """Return the engine's outputs of every golden case in order, [cases, ...].

    They are those that `run_all` gives in one process.
    """
    count = len(model.golden.cases)
    outputs: dict[int, NDArray[np.float32]] = {}
    with open_mapper(
        (cluster or NONE) if engine.target in ANYWHERE else NONE, pieces=count
    ) as mapper:
        of = shards_for(mapper, -(-count // BATCH))
        shards = [GoldenShard(model.name, model.digest, engine, index, of) for index in range(of)]
        for rows in mapper.map(run_shard, shards):
            outputs |= rows
    return stacked(outputs, count)


def run_shard(shard: GoldenShard) -> dict[int, NDArray[np.float32]]:
    """Return the outputs of the shard's cases by their place; runs on a worker.

    Raises:
        Tampered: The stored plan is another than the one that was to be judged.
    """
    model = open_exactly(shard.model, shard.digest)
    engine = _loaded(settings().store_address, shard.engine)
    inputs = BatchShard(model.inputs, shard.index, shard.of)
    return run_batches(engine, inputs, [case.payload for case in model.golden.cases])


@lru_cache(maxsize=2)
def _loaded(store: str, named: GoldenEngine) -> Engine:
    """Verify the plan before loading it: a plan is native code (ADR 38)."""
    data = settings().store().get(named.plan)
    if sha256(data) != named.digest:
        raise Tampered(
            f"{named.plan} in {store} is not the plan that was to be judged: "
            "build the candidate again"
        )
    return open_target(named.target).load(data)
