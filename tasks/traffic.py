"""Live traffic as versioned Parquet: stored by hour, read back as a window.

Keys are `traffic/MODEL/date=YYYY-MM-DD/hour=HH/part-<digest>.parquet`: content-addressed, so writing the same
requests twice is harmless, and nothing is ever rewritten. Text is redacted before it is stored (DESIGN.md, D13).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from itertools import groupby
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import AlreadyExists, BadInput, Tampered
from infra.stores.port import ObjectStore
from tasks.payloads import PAYLOAD_FIELDS, decode, encode
from tasks.records import Request
from tasks.redaction import redact
from tasks.traffic_import import Import, Reject, read_import

VERSION = 1
"""Of the schema; in the file's metadata as `requant.traffic.version`."""
PART_ROWS = 10_000
PART_BYTES = 32_000_000
"""One part holds no more than this many rows and bytes of input: it bounds the memory of whoever reads a window."""
LONGEST_REJECT = 2_000  # bytes kept of a rejected record

_METADATA_KEY = b"requant.traffic.version"
SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("tenant", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        *PAYLOAD_FIELDS,
        pa.field("latency_ms", pa.float64()),
        pa.field("model_version", pa.string()),
        pa.field("decision", pa.string()),
        pa.field("label", pa.string()),
    ],
    metadata={_METADATA_KEY: str(VERSION).encode()},
)
_PLAIN = tuple(field.name for field in SCHEMA if field not in PAYLOAD_FIELDS)
_REQUIRED = tuple(field.name for field in SCHEMA if not field.nullable)


def to_parquet(requests: Iterable[Request]) -> bytes:
    """Write requests in the order given; equal requests give equal bytes."""
    rows = [{**{name: getattr(request, name) for name in _PLAIN}, **encode(request.payload)} for request in requests]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue())


def from_parquet(data: bytes, *, where: str) -> tuple[Request, ...]:
    """Read what `to_parquet` wrote; raises `BadInput` on a damaged file, another version, other columns, bad rows."""
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        _check_schema(table.schema, where)
        rows = table.select(SCHEMA.names).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0].rstrip(".")
        raise BadInput(f"{where} is not a whole Parquet file ({reason}): write or fetch it again") from error
    return tuple(_request(row, f"row {number} of {where}") for number, row in enumerate(rows, 1))


def _check_schema(schema: pa.Schema, where: str) -> None:
    version = (schema.metadata or {}).get(_METADATA_KEY, b"none").decode(errors="replace")
    if version != str(VERSION):
        raise BadInput(f"{where} has traffic schema version {version}, not {VERSION}: import the traffic again")
    for field in SCHEMA:
        if field.name not in schema.names:
            raise BadInput(f"{where} has no column {field.name}: import the traffic again")
        found = schema.field(field.name).type
        if found != field.type:
            raise BadInput(f"{where} has column {field.name} of type {found}, not {field.type}: import it again")


def _request(row: Mapping[str, object], where: str) -> Request:
    missing = [name for name in _REQUIRED if row[name] is None]
    if missing:
        raise BadInput(f"{where} has no {missing[0]}: import the traffic again")
    time = cast(datetime, row["time"])  # the schema was checked
    try:
        plain = {name: row[name] for name in _PLAIN} | {"time": time.astimezone(UTC), "payload": decode(row)}
    except BadInput as error:
        raise BadInput(f"{where} holds no input: {error}") from error
    return Request(**plain)  # type: ignore[arg-type]  # the schema was checked


def write_traffic(store: ObjectStore, model: str, requests: Iterable[Request]) -> list[str]:
    """Redact and store requests by hour; gives the keys, among them those that were there before."""
    ordered = sorted(map(redacted, requests), key=lambda request: (request.time, request.request_id))
    keys = []
    for hour, group in groupby(ordered, key=lambda request: request.time.strftime("date=%Y-%m-%d/hour=%H")):
        for part in _parts(group):
            data = to_parquet(part)
            keys.append(f"traffic/{model}/{hour}/part-{_digest(data)}.parquet")
            with contextlib.suppress(AlreadyExists):  # the same content: somebody wrote it before
                store.create(keys[-1], data)
    return keys


def redacted(request: Request) -> Request:
    """The request without personal data; ids that are personal data themselves become stable pseudonyms."""
    payload = redact(request.payload).text if isinstance(request.payload, str) else request.payload
    return replace(
        request,
        payload=payload,
        request_id=_pseudonym(request.request_id),
        tenant=_pseudonym(request.tenant),
        domain=_clean(request.domain),
        language=_clean(request.language),
        decision=_clean(request.decision) if request.decision else request.decision,
        label=_clean(request.label) if request.label else request.label,
        time=request.time.astimezone(UTC),
    )


@lru_cache(maxsize=4096)
def _clean(name: str) -> str:
    return redact(name).text


@lru_cache(maxsize=4096)  # a tenant's name comes with each of its requests
def _pseudonym(name: str) -> str:
    return f"redacted-{sha256(name.encode()).hexdigest()[:16]}" if redact(name).counts else name


def _parts(requests: Iterable[Request]) -> Iterator[list[Request]]:
    part: list[Request] = []
    size = 0
    for request in requests:
        weight = len(request.payload) if isinstance(request.payload, str) else request.payload.nbytes
        if part and (len(part) >= PART_ROWS or size + weight > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(request)
        size += weight
    if part:
        yield part


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:32]


def write_rejects(store: ObjectStore, model: str, rejects: Sequence[Reject], source_name: str) -> str:
    """Set rejected records aside as JSON Lines, redacted and cut to 2 kB each; gives the key."""
    lines = [_reject_line(reject, source_name) for reject in rejects]
    data = "".join(f"{line}\n" for line in lines).encode()
    key = f"rejected/{model}/{_digest(data)}.jsonl"
    with contextlib.suppress(AlreadyExists):
        store.create(key, data)
    return key


def _reject_line(reject: Reject, source: str) -> str:
    raw = redact(reject.raw).text.encode(errors="replace")[:LONGEST_REJECT].decode(errors="ignore")
    record = {"version": 1, "source": source, "line_or_row": reject.line_or_row, "reason": reject.reason, "raw": raw}
    return json.dumps(record, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class StoredRequests:
    """The requests of some parts within (start, end]; each iteration reads them anew, one part in memory at a time."""

    store: ObjectStore
    keys: tuple[str, ...]
    start: datetime
    end: datetime

    def __iter__(self) -> Iterator[Request]:
        """In the order of their hours; raises `Tampered`, `BadInput` on a part that is not what was written."""
        for key in self.keys:
            for request in _read_part(self.store, key):
                if self.start < request.time <= self.end:
                    yield request


@dataclass(frozen=True, slots=True)
class Window:
    """The traffic of the last hours; `start` and `end` are None when the model has no traffic at all."""

    requests: Iterable[Request]  # may be iterated more than once
    start: datetime | None  # exclusive
    end: datetime | None  # inclusive


def read_window(store: ObjectStore, model: str, *, hours: int, until: datetime | None = None) -> Window:
    """The traffic of `hours` up to `until`, or up to the newest request; only parts of those hours are read."""
    parts = [(hour, key) for key in store.list(f"traffic/{model}/") if (hour := _hour(key)) is not None]
    end = until or _newest(store, parts)
    if end is None or not parts:
        return Window((), None, None)
    end = end.astimezone(UTC)
    start = end - timedelta(hours=hours)
    keys = tuple(key for hour, key in parts if hour <= end and hour + timedelta(hours=1) > start)
    return Window(StoredRequests(store, keys, start, end), start, end)


def _hour(key: str) -> datetime | None:
    found = re.search(r"/date=(\d{4}-\d\d-\d\d)/hour=(\d\d)/[^/]+\.parquet$", key)
    return datetime.fromisoformat(f"{found[1]}T{found[2]}:00:00+00:00") if found else None


def _newest(store: ObjectStore, parts: Sequence[tuple[datetime, str]]) -> datetime | None:
    last = max((hour for hour, _ in parts), default=None)
    return max(
        (request.time for hour, key in parts if hour == last for request in _read_part(store, key)), default=None
    )


def _read_part(store: ObjectStore, key: str) -> tuple[Request, ...]:
    data = store.get(key)
    named = re.search(r"/part-([0-9a-f]{32})\.parquet$", key)
    if named and named[1] != _digest(data):
        raise Tampered(f"{key} in {store.url} does not match the digest in its name: restore it or delete it")
    return from_parquet(data, where=key)


__all__ = [
    "PART_ROWS",
    "SCHEMA",
    "VERSION",
    "Import",
    "Reject",
    "StoredRequests",
    "Window",
    "from_parquet",
    "read_import",
    "read_window",
    "redacted",
    "to_parquet",
    "write_rejects",
    "write_traffic",
]
