"""Who picks runs up, as Prefect knows it: what serves the deployments, and workers of pools."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError

from infra.errors import Unavailable

ONLINE, OFFLINE = "online", "offline"
SERVED = "what serves the deployments"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One process that picks runs up."""

    name: str
    pool: str  # Prefect's work pool; "" for what serves deployments by itself
    state: str  # online or offline
    seen: str | None  # when it asked for runs last, ISO 8601


def known_workers() -> list[WorkerView]:
    """Return who picks runs up; raises `Unavailable`."""
    try:
        with get_client(sync_client=True) as client:
            return [*_serving(client), *_of_pools(client)]
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        raise Unavailable(
            f"Prefect did not tell its workers ({error}): see whether its server runs"
        ) from error


def _serving(client: SyncPrefectClient) -> Iterator[WorkerView]:
    served = [item for item in client.read_deployments() if item.work_pool_name is None]
    if served:
        ready = any(item.status is not None and item.status.value == "READY" for item in served)
        polled = [item.last_polled for item in served if item.last_polled is not None]
        yield WorkerView(SERVED, "", ONLINE if ready else OFFLINE, _iso(max(polled, default=None)))


def _of_pools(client: SyncPrefectClient) -> Iterator[WorkerView]:
    for pool in client.read_work_pools():
        for worker in client.read_workers_for_work_pool(pool.name):
            online = worker.status.value == "ONLINE"
            state, seen = ONLINE if online else OFFLINE, _iso(worker.last_heartbeat_time)
            yield WorkerView(worker.name, pool.name, state, seen)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
