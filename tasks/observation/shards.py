"""One observer pass in shards that may run anywhere.

A shard is every so many-th batch of the calibration set.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from infra.cluster import open_mapper, shards_for
from infra.settings import NONE, settings
from tasks.models.batches import BATCH
from tasks.models.catalog import RegisteredModel, open_exactly
from tasks.models.inputs import BatchShard
from tasks.observation.observer import Observer, SiteObservation
from tasks.observation.watch import filled_observer
from tasks.traffic.storage.codec import from_parquet


@dataclass(frozen=True, slots=True)
class ObservationShard:
    """Which model sees which batches of which stored requests."""

    model: str
    digest: str  # of the registered model
    requests: str  # key
    index: int
    of: int


def observe_shards(
    model: RegisteredModel, requests: str, count: int, cluster: str | None
) -> Mapping[str, SiteObservation]:
    """Observe the `count` requests stored under a key; byte for byte what a single pass gives.

    Left to itself it stays in this process, whose cores the engine fills already.
    """
    with open_mapper(cluster or NONE, pieces=count) as mapper:
        of = shards_for(mapper, -(-count // BATCH))
        shards = [
            ObservationShard(model.name, model.digest, requests, index, of) for index in range(of)
        ]
        total = Observer(model.observed_sites)
        for observer in mapper.map(observe_shard, shards):
            total.merge(observer)
    return total.result()


def observe_shard(shard: ObservationShard) -> Observer:
    """Return an observer that saw the shard's batches; runs on a worker."""
    model = open_exactly(shard.model, shard.digest)
    stored = from_parquet(settings().store().get(shard.requests), where=shard.requests)
    inputs = BatchShard(model.inputs, shard.index, shard.of)
    payloads = [request.payload for request in stored]
    sites, cases = model.observed_sites, model.observed_cases
    return filled_observer(model.calibrating, sites, inputs, payloads, cases=cases)
