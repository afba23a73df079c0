"""Stored traffic as Arrow batches, in bounded memory.

Only the columns, hours and row groups that are asked for are read, by range. The digest in a part's
name is therefore not checked unless `verify` is set, which reads parts whole. What becomes a
calibration set is read by `read_window`, which always checks (ADR 15).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from infra.errors import BadInput, Unavailable
from infra.run_scope import read_once
from infra.stores import layout
from infra.stores.filesystem import open_filesystem
from infra.stores.port import ObjectStore
from tasks.traffic.slices import BUFFER, rows_of_slice
from tasks.traffic.storage.parts import HOUR, deleted, hour_of, require_intact
from tasks.traffic.storage.schema import SCHEMA, conform, present

BATCH_ROWS = 8_192
LONGEST_LISTING = timedelta(days=62)
"""A longer span lists all of the model's parts at once: fewer requests than one a day."""


def scan(
    store: ObjectStore,
    model: str,
    start: datetime | None,
    end: datetime | None,
    columns: Sequence[str],
    *,
    verify: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Yield the columns of every request in (start, end], hour by hour.

    None leaves that side open.

    Raises:
        BadInput: For an unknown column and a part of another schema.
        NotFound: For a part that was deleted between listing and reading.
        Tampered: With `verify`, for a part that is not what its name says.
        Unavailable: When the store cannot be read.
    """
    keys = tuple(
        parts_between(store, model, start, end)
    )  # one listing: what comes later belongs to the next scan
    return scan_parts(store, keys, columns, start=start, end=end, verify=verify)


def parts_between(
    store: ObjectStore, model: str, start: datetime | None, end: datetime | None
) -> Iterator[str]:
    """Yield the keys of the parts whose hour meets (start, end], in order.

    Only the names are looked at.
    """
    for prefix in _prefixes(model, start, end):
        for key in store.list(prefix):
            hour = hour_of(key)
            if (
                hour is not None
                and (end is None or hour <= end)
                and (start is None or hour + HOUR > start)
            ):
                yield key


def scan_parts(
    store: ObjectStore,
    keys: Iterable[str],
    columns: Sequence[str],
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    verify: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Yield the same of parts whose keys are known."""
    unknown = [name for name in columns if name not in SCHEMA.names]
    if unknown or not columns:
        raise BadInput(
            f"traffic has no column {', '.join(unknown) or 'of no name'}: "
            f"it has {', '.join(SCHEMA.names)}"
        )
    wanted = pa.schema([SCHEMA.field(name) for name in columns])
    files = open_filesystem(store)
    for key in keys:
        with _translated(store, key), _opened(store, files, key, verify) as part:
            yield from _read(part, key, wanted, start, end)


def _prefixes(model: str, start: datetime | None, end: datetime | None) -> Iterator[str]:
    if start is None or end is None or end - start > LONGEST_LISTING:
        yield layout.TRAFFIC.prefix(model=model)
        return
    day = start.date()
    while day <= end.date():
        yield layout.TRAFFIC.prefix(model=model, date=day.isoformat())
        day += timedelta(days=1)


@contextmanager
def _opened(
    store: ObjectStore, files: FileSystem, key: str, verify: bool
) -> Iterator[pq.ParquetFile]:
    if verify:
        data = read_once(store, key)
        require_intact(store, key, data)
        source: pa.NativeFile = pa.BufferReader(data)
    else:
        source = files.open_input_file(key)
    with source, pq.ParquetFile(source, buffer_size=BUFFER, pre_buffer=False) as part:
        yield part


@contextmanager
def _translated(store: ObjectStore, key: str) -> Iterator[None]:
    """Tell a missing object, a dead server and a damaged file apart: Arrow calls all OSError."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0].rstrip(".")
        if not store.exists(key):
            raise deleted(store, key) from error
        if "AWS Error" in reason:
            raise Unavailable(
                f"The store {store.url} could not read {key} ({reason}): run again"
            ) from error
        raise BadInput(
            f"{key} is not a whole Parquet file ({reason}): write or fetch it again"
        ) from error


def _read(
    part: pq.ParquetFile, key: str, wanted: pa.Schema, start: datetime | None, end: datetime | None
) -> Iterator[pa.RecordBatch]:
    timed, time = start is not None or end is not None, SCHEMA.field("time")
    fields = present(wanted, part.schema_arrow, key)
    with_time = [*wanted] + ([time] if "time" not in wanted.names else [])
    exact_times = (
        "time" in part.schema_arrow.names and part.schema_arrow.field("time").type == time.type
    )
    for group in range(part.num_row_groups):
        all_within, any_within = (
            _overlap(part.metadata.row_group(group), start, end) if timed else (True, True)
        )
        if not any_within:
            continue
        # statistics of another type are rounded
        all_within = all_within and (exact_times or not timed)
        names = fields if all_within else present(with_time, part.schema_arrow, key)
        size = rows_of_slice(part.metadata.row_group(group), names, most=BATCH_ROWS)
        for batch in part.iter_batches(batch_size=size, row_groups=[group], columns=names):
            if all_within:
                yield conform(batch, wanted, key)
                continue
            within = _within(conform(batch, with_time, key), start, end)
            if within.num_rows:
                yield within.select(wanted.names)


def _within(batch: pa.RecordBatch, start: datetime | None, end: datetime | None) -> pa.RecordBatch:
    time = batch.column("time")
    if start is not None:
        batch = batch.filter(pc.greater(time, pa.scalar(start, time.type)))
        time = batch.column("time")
    return batch if end is None else batch.filter(pc.less_equal(time, pa.scalar(end, time.type)))


def _overlap(
    group: pq.RowGroupMetaData, start: datetime | None, end: datetime | None
) -> tuple[bool, bool]:
    """Return whether all, and whether any, of a row group lies in (start, end].

    This is by its statistics; without them any may.
    """
    for place in range(group.num_columns):
        column = group.column(place)
        if (
            column.path_in_schema == "time"
            and column.statistics is not None
            and column.statistics.has_min_max
        ):
            low, high, nulls = (
                column.statistics.min,
                column.statistics.max,
                column.statistics.null_count,
            )
            some = (start is None or high > start) and (end is None or low <= end)
            return not nulls and (start is None or low > start) and (
                end is None or high <= end
            ), some
    return False, True
