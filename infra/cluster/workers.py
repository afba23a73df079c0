"""Work on the workers of a Dask scheduler."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import dask
from distributed import Client, Future, KilledWorker, LocalCluster
from distributed.comm.core import CommClosedError
from distributed.security import Security

from infra.cluster.alike import identity, sees_store
from infra.cluster.in_process import tried
from infra.cluster.port import R, T
from infra.errors import BadInput, RequantError, Unavailable
from infra.settings import Settings, settings

AHEAD = 4
"""Pieces under way or waiting for each worker.

The number bounds what the caller holds, and keeps workers busy.
"""
CONNECT_S, LONELY_S = 10.0, 15.0
"""Seconds that a scheduler may take to answer, and that a cluster may be without any worker.

The second is looked at twice.
"""
HERE = "127.0.0.1"

_LOCK = threading.Lock()


class OnDask:
    """The workers of a Dask scheduler; the settings of this process travel with every item."""

    def __init__(self, client: Client, address: str, environment: Mapping[str, str]) -> None:
        self._client, self._address, self._environment = client, address, dict(environment)

    @property
    def workers(self) -> int:
        """The number of workers that are there now, and at least one."""
        return max(1, self._present())

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Hand over at most AHEAD items a worker before their results are asked for."""
        waiting: deque[Future] = deque()
        try:
            for item in items:
                work = self._client.submit(_work, self._environment, function, item, pure=False)
                waiting.append(work)
                while len(waiting) >= AHEAD * self.workers:
                    yield self._result(waiting.popleft(), function)
            while waiting:
                yield self._result(waiting.popleft(), function)
        finally:
            self._client.cancel(list(waiting))

    def _result(self, future: Future, kind: Callable[[T], R]) -> R:
        """Wait for one result, but not for a cluster that has no workers."""
        lonely = False
        while True:
            try:
                answer = future.result(timeout=LONELY_S)
            except TimeoutError:
                if future.status == "error":  # then the work itself timed out
                    raise
                if future.done():  # just after the time was over
                    continue
                if lonely and not self._present():
                    raise self._unavailable(
                        "has no workers any more: start some with `dask worker`"
                    ) from None
                lonely = not self._present()
                continue
            except KilledWorker as exc:
                raise self._unavailable(
                    "lost a worker each time it worked on one piece: "
                    "see the workers' logs, or give them more memory"
                ) from exc
            except (CancelledError, CommClosedError) as exc:
                raise self._unavailable(
                    "was lost in the middle of the work: start it again, and the run"
                ) from exc
            if isinstance(answer, _Raised):
                raise answer.error
            return answer  # type: ignore[no-any-return]  # what `function` gave

    def _present(self) -> int:
        try:
            return len(self._client.scheduler_info(n_workers=-1)["workers"])
        except (OSError, CommClosedError):  # the scheduler is gone
            return 0

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(f"the cluster at {self._address} {what}")


@contextmanager
def local(workers: int, own: Settings) -> Iterator[OnDask]:
    """Start a scheduler and processes on 127.0.0.1 that end with the block.

    Whoever reaches a scheduler can run code on its workers, other accounts of this machine too. So
    they speak TLS with keys that live as long as the block, and their web servers have no pages.
    """
    with (
        dask.config.set(
            {f"distributed.{part}.http.routes": [] for part in ("scheduler", "worker")}
        ),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host=HERE,
            dashboard_address=f"{HERE}:0",
            worker_dashboard_address=f"{HERE}:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs="CRITICAL",
            security=Security.temporary(),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield OnDask(client, "this machine", own.travelling())


@contextmanager
def connected(address: str, own: Settings) -> Iterator[OnDask]:
    """Connect to a scheduler whose workers answer and are like this process."""
    where = urlsplit(address)
    if where.scheme not in ("tcp", "tls") or not where.hostname:
        raise BadInput(
            f"the cluster is {address!r}: "
            "give none, local, or a scheduler's address as tcp://HOST:PORT"
        )
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as exc:
        raise Unavailable(
            f"no Dask scheduler answers at {address}: "
            "start one with `dask scheduler`, or correct the cluster setting"
        ) from exc
    with client:
        _require_workers(client, address)
        _require_alike(client, address, own)
        yield OnDask(client, address, own.travelling())


def _require_workers(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError as exc:
        raise Unavailable(
            f"the cluster at {address} has no workers: "
            f"start some with `dask worker {address} --nthreads 1`"
        ) from exc


def _require_alike(client: Client, address: str, own: Settings) -> None:
    """Check that the workers would give the same bytes as this process.

    Another version, or other code, could give other bytes; a store that a worker does not see, none
    at all.
    """
    expected = identity()
    try:
        identities = {
            "the scheduler": client.run_on_scheduler(identity),
            **{f"worker {name}": facts for name, facts in client.run(identity).items()},
        }
        store = client.run(sees_store, own.store_address)
    except (ImportError, AttributeError, CommClosedError, OSError, RuntimeError) as exc:
        raise Unavailable(
            f"the cluster at {address} cannot run Requant ({exc}): "
            "install this version of it for scheduler and workers"
        ) from exc
    for who, facts in identities.items():
        differing = [
            f"{name} {facts.get(name)} instead of {have}"
            for name, have in expected.items()
            if facts.get(name) != have
        ]
        if differing:
            raise Unavailable(
                f"{who} of {address} has {', '.join(differing)}: "
                "install the same versions everywhere"
            )
    blind = sorted(name for name, sees in store.items() if not sees)
    if blind:
        raise Unavailable(
            f"worker {blind[0]} of {address} does not see {own.store_address}: "
            "share the folder, or give an S3 store"
        )


@dataclass(frozen=True, slots=True)
class _Raised:
    """An error that is an answer: to try again would give it again."""

    error: RequantError


def _work(environment: Mapping[str, str], function: Callable[[T], R], item: T) -> R | _Raised:
    """Work on one item under the caller's settings, on a worker.

    Workers are shared, so settings are changed under a lock.
    """
    with _LOCK:
        _adopt(environment)
        try:
            return tried(function, item)
        except RequantError as exc:
            return _Raised(exc)


def _adopt(environment: Mapping[str, str]) -> None:
    ours = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("REQUANT_") or name in environment
    }
    if ours != environment:
        for name in ours.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        settings.cache_clear()
