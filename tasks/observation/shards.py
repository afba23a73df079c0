"""One observer pass in shares that may run anywhere; a share is every so many-th batch of the calibration set."""

from collections.abc import Mapping
from dataclasses import dataclass

from infra.cluster import open_mapper, shares_for
from infra.settings import NONE, settings
from tasks.models.batches import BATCH
from tasks.models.catalog import RegisteredModel, open_exactly
from tasks.models.inputs import BatchShare
from tasks.observation.observer import Observer, SiteObservation
from tasks.observation.watch import watched
from tasks.traffic import from_parquet


@dataclass(frozen=True, slots=True)
class ObservationShare:
    """Which model sees which batches of which stored requests."""

    model: str
    digest: str  # of the registered model
    requests: str  # key
    index: int
    of: int


def observe_shares(
    model: RegisteredModel, requests: str, count: int, cluster: str | None
) -> Mapping[str, SiteObservation]:
    """What every site saw of the `count` requests stored under a key: byte for byte the single pass.

    Left to itself it stays in this process, whose cores the engine fills already.
    """
    with open_mapper(cluster or NONE, pieces=count) as mapper:
        of = shares_for(mapper, -(-count // BATCH))
        shares = [
            ObservationShare(model.name, model.digest, requests, index, of) for index in range(of)
        ]
        whole = Observer(model.sites)
        for observer in mapper.map(observe_share, shares):
            whole.merge(observer)
    return whole.result()


def observe_share(share: ObservationShare) -> Observer:
    """An observer that saw the share's batches; runs on a worker."""
    model = open_exactly(share.model, share.digest)
    stored = from_parquet(settings().store().get(share.requests), where=share.requests)
    inputs = BatchShare(model.inputs, share.index, share.of)
    return watched(model.instrumented, model.sites, inputs, [one.payload for one in stored])
