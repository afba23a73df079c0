"""A window's sample, drawn in shards that may run anywhere.

What a worker is given are names, and what it gives merges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from infra.cluster import open_mapper
from infra.settings import settings
from tasks.records import Sample
from tasks.sampling.strata import Pool, choose, draw, gather
from tasks.traffic.storage.windows import StoredRequests, TrafficWindow

PARTS = 4
"""Of traffic in a shard, at least: up to 40,000 requests.

These are some seconds of work, which is what a dying worker costs.
"""
SHARDS = 1024
"""Of a window, at most: merging one costs the same however many requests it held."""


@dataclass(frozen=True, slots=True)
class WindowShard:
    """Some parts of one window, and how to draw from them."""

    keys: tuple[str, ...]
    start: datetime
    end: datetime
    size: int
    tenant_share: float


def draw_window(
    window: TrafficWindow, cluster: str | None, *, size: int, tenant_share: float
) -> Sample:
    """Draw the sample of a window, by the cluster setting.

    It is byte for byte what `draw` gives in one process.

    Raises:
        BadInput: As `draw` does.
        Unavailable: The cluster does not answer.
    """
    if not isinstance(window.requests, StoredRequests):
        return draw(window.requests, size=size, tenant_share=tenant_share)
    shards = shards_of(window.requests, size, tenant_share)
    total = gather((), size=size, tenant_share=tenant_share)
    with open_mapper(cluster, pieces=len(shards)) as mapper:
        for pool in mapper.map(gather_shard, shards):
            total.merge(pool)
    return choose(total)


def shards_of(requests: StoredRequests, size: int, tenant_share: float) -> Sequence[WindowShard]:
    """Return the window's parts, `parts_of_shard` at a time."""
    keys, each = requests.keys, parts_of_shard(len(requests.keys))
    return [
        WindowShard(keys[first : first + each], requests.start, requests.end, size, tenant_share)
        for first in range(0, len(keys), each)
    ]


def parts_of_shard(parts: int) -> int:
    """Return how many of a window's parts one shard holds."""
    return max(PARTS, ceil(parts / SHARDS))


def gather_shard(shard: WindowShard) -> Pool:
    """Return what one pass over a shard keeps; runs on a worker."""
    requests = StoredRequests(settings().store(), shard.keys, shard.start, shard.end)
    return gather(requests, size=shard.size, tenant_share=shard.tenant_share)
