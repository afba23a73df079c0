"""Where traffic lies: parts by hour, addressed by their content.

Writing the same requests twice is harmless, and nothing is ever rewritten. Text is redacted before
it is stored (ADR 38).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import groupby

from infra.errors import AlreadyExists, NotFound, Tampered
from infra.run_scope import read_once
from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks.payloads import tensors_of
from tasks.records import Request
from tasks.traffic.masking import redacted
from tasks.traffic.storage.codec import from_parquet, to_parquet

PART_ROWS = 10_000
PART_BYTES = 32_000_000
"""One part holds no more rows and bytes of input: a bound for whoever reads a window."""
STORED_WITHIN_S = 10.0
"""Seconds for which a gateway holds in memory what it sampled."""
HOUR = timedelta(hours=1)


def write_traffic(store: ObjectStore, model: str, requests: Iterable[Request]) -> list[str]:
    """Redact and store requests by hour; return the keys, also those that were there before."""
    return write_redacted(store, model, map(redacted, requests))


def write_redacted(store: ObjectStore, model: str, requests: Iterable[Request]) -> list[str]:
    """Store requests by hour that `masking.redacted` gave; return the keys."""
    ordered = sorted(requests, key=lambda request: (request.time, request.request_id))
    keys: list[str] = []
    for hour, group in groupby(ordered, key=lambda request: _hour(request.time)):
        for part in _parts(group):
            data = to_parquet(part)
            keys.append(layout.traffic_part(model, hour, _digest(data)))
            with contextlib.suppress(AlreadyExists):  # the same content: somebody wrote it before
                store.create(keys[-1], data)
    return keys


def _parts(requests: Iterable[Request]) -> Iterator[list[Request]]:
    part: list[Request] = []
    size = 0
    for request in requests:
        weight = weight_of(request)
        if part and (len(part) >= PART_ROWS or size + weight > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(request)
        size += weight
    if part:
        yield part


def weight_of(request: Request) -> int:
    """Return the size of the input: letters of a text, bytes of tensors."""
    if isinstance(request.payload, str):
        return len(request.payload)
    return sum(tensor.nbytes for tensor in tensors_of(request.payload))


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:32]


def _hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


def hour_prefix(model: str, time: datetime) -> str:
    """Return the prefix of the parts of a moment's hour; `time` is in UTC."""
    return layout.TRAFFIC.prefix(model=model, date=f"{time:%Y-%m-%d}", hour=f"{time:%H}")


def hour_of(key: str) -> datetime | None:
    """Return the hour that a part belongs to, in UTC; None when the key is no part's."""
    hour = re.search(r"/date=(\d{4}-\d\d-\d\d)/hour=(\d\d)/[^/]+\.parquet$", key)
    return datetime.fromisoformat(f"{hour[1]}T{hour[2]}:00:00+00:00") if hour else None


def read_part(store: ObjectStore, key: str) -> tuple[Request, ...]:
    """Read every request of a part that a listing named.

    Raises `NotFound` when it was deleted since, `BadInput`, and `Tampered` when it is not what its
    name says.
    """
    try:
        data = read_once(store, key)
    except NotFound as error:
        raise deleted(store, key) from error
    require_intact(store, key, data)
    return from_parquet(data, where=key)


def deleted(store: ObjectStore, key: str) -> NotFound:
    """Return what to tell whoever reads a part that a listing named and that is not there."""
    return NotFound(
        f"{key} was deleted from {store.url} between listing and reading: "
        "run again, on what is there now"
    )


def require_intact(store: ObjectStore, key: str, data: bytes) -> None:
    """Raise `Tampered` when a part's bytes are not those that its name was made from."""
    named = re.search(r"/part-([0-9a-f]{32})\.parquet$", key)
    if named and named[1] != _digest(data):
        raise Tampered(
            f"{key} in {store.url} does not match the digest in its name: restore it or delete it"
        )
