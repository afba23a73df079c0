"""Triton's trace files.

They are written with `--trace-config level=TIMESTAMPS --trace-config level=TENSORS`. Each is an
array of objects that share an id: model and version, timestamps on the host's monotonic clock,
input tensors. Source:
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/trace.md
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from infra.errors import BadInput
from tasks.traffic.formats.bodies.inference import NamedTensor, rows_of_tensors
from tasks.traffic.formats.documents import read_documents
from tasks.traffic.formats.raw import Bad, Raw, Source, failing, ready
from tasks.traffic.formats.spill import spill

_SCHEMA = """
CREATE TABLE entries (
    run INTEGER, id INTEGER, number INTEGER, first INTEGER, value TEXT,
    PRIMARY KEY (run, id, number)
) WITHOUT ROWID;
CREATE TABLE begun (run INTEGER, id INTEGER, mark TEXT, PRIMARY KEY (run, id, mark)) WITHOUT ROWID
"""
# Triton writes the letters of a BYTES tensor as they are:
# quotation marks end the JSON string too early.
_RAW_TENSOR = re.compile(
    r'\{"id":(?P<id>\d+),"activity":"(?P<activity>[A-Z_]+)","tensor":\{"name":"(?P<name>[^"]*)","data":"(?P<data>.*?)"'
    r',"shape":"(?P<shape>[\d,]*)","dtype":"(?P<dtype>[A-Z0-9]+)"\}\}',
    re.DOTALL,
)
_INPUT = "TENSOR_QUEUE_INPUT"
_LONGEST_ID = 2**63


def read_triton(source: Source) -> Iterator[Raw]:
    """Read the top-level requests, run of the server after run, in the order of their ids.

    Models run inside an ensemble are part of their parent's request. A server counts its traces
    from 1: an id that begins again is that of another run.

    Raises:
        BadInput: The time of the first is not given.
    """
    if source.first_at is None:
        raise BadInput(
            "Triton's timestamps count from the start of the host and name no date: "
            "say when the first trace was "
            "taken, such as --first-at 2026-01-31T03:00:00Z"
        )
    with spill(_SCHEMA) as database:
        yield from _gather(source, database)
        least = database.execute("SELECT MIN(first) FROM entries").fetchone()[0]
        origin = least if source.origin is None else source.origin
        if origin is not None and least is not None and least < origin:
            raise BadInput(
                "its clock stands before that of the source's first file, "
                "as after a restart of the host: give the "
                "source another name and first_at"
            )
        for entries in _traces(database):
            yield from _requests(entries, source, source.first_at, origin)


def first_stamp(source: Source) -> int | None:
    """Return the least timestamp of trace files, nanoseconds on the host's clock.

    It is None when they have none.
    """
    stamps = (
        min(_times(document.value).values(), default=None)
        for document in read_documents(source, _repaired)
    )
    return min((stamp for stamp in stamps if stamp is not None), default=None)


def _gather(source: Source, database: sqlite3.Connection) -> Iterator[Raw]:
    run = 0
    for document in read_documents(source, _repaired):
        value = document.value
        if (
            document.problem
            or type(value.get("id")) is not int
            or not 0 <= value["id"] < _LONGEST_ID
        ):
            yield failing(
                document.number, document.excerpt, Bad(document.problem or "it has no id")
            )
            continue
        run += _begins_again(value, run, database)
        row = (
            run,
            value["id"],
            document.number,
            min(_times(value).values(), default=None),
            json.dumps(value),
        )
        database.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row)


def _begins_again(value: Mapping[str, Any], run: int, database: sqlite3.Connection) -> bool:
    """Tell whether a trace begins whose id has begun in this run already."""
    marks = [
        mark
        for mark, begins in (
            ("model", "model_name" in value),
            ("start", "REQUEST_START" in _times(value)),
        )
        if begins
    ]
    again = any(
        database.execute(
            "SELECT 1 FROM begun WHERE run = ? AND id = ? AND mark = ?", (run, value["id"], mark)
        ).fetchone()
        for mark in marks
    )
    rows = [(run + again, value["id"], mark) for mark in marks]
    database.executemany("INSERT INTO begun VALUES (?, ?, ?)", rows)
    return again


def _traces(database: sqlite3.Connection) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Yield the entries of one trace at a time."""
    trace: list[tuple[int, dict[str, Any]]] = []
    last = None
    for run, id, number, value in database.execute(
        "SELECT run, id, number, value FROM entries ORDER BY run, id, number"
    ):
        if trace and (run, id) != last:
            yield trace
            trace = []
        trace.append((number, json.loads(value)))
        last = run, id
    if trace:
        yield trace


def _requests(
    entries: list[tuple[int, dict[str, Any]]],
    source: Source,
    first_at: datetime,
    origin: int | None,
) -> Iterator[Raw]:
    number, first = entries[0]
    facts: dict[str, Any] = {}
    times: dict[str, int] = {}
    for _, value in entries:
        facts = {**value, **facts}
        times = {**times, **_times(value)}
    if facts.get("parent_id"):
        return
    excerpt = json.dumps(first)
    try:
        rows = rows_of_tensors(_inputs([value for _, value in entries]), source.task, source.shape)
        shared = _shared(facts, times, first_at, origin)
    except Bad as bad:
        yield failing(number, excerpt, bad)
        return
    # Trace ids start anew with each run of the server: without the client's own id, the time tells
    # them apart.
    name = str(facts.get("request_id") or f"trace-{shared['time']:%Y%m%dT%H%M%S}-{facts['id']}")
    for place, row in enumerate(rows):
        yield ready(
            number,
            excerpt,
            {**shared, **row, "request_id": name if len(rows) == 1 else f"{name}/{place}"},
        )


def _shared(
    facts: Mapping[str, Any], times: Mapping[str, int], first_at: datetime, origin: int | None
) -> dict[str, object]:
    if not times or origin is None:
        raise Bad("the trace has no timestamps: trace with level=TIMESTAMPS too")
    began, ended = min(times.values()), max(times.values())
    return {
        "time": first_at + timedelta(microseconds=(began - origin) // 1000),
        "latency_ms": (ended - began) / 1e6,
        "model_version": str(facts["model_version"]) if "model_version" in facts else None,
    }


def _times(value: Mapping[str, Any]) -> dict[str, int]:
    stamps = value.get("timestamps")
    return {
        str(stamp["name"]): stamp["ns"]
        for stamp in (stamps if isinstance(stamps, list) else ())
        if isinstance(stamp, Mapping)
        and "name" in stamp
        and type(stamp.get("ns")) is int
        and stamp["ns"] < 2**63
    }


def _inputs(entries: list[dict[str, Any]]) -> list[NamedTensor]:
    tensors = [
        entry["tensor"]
        for entry in entries
        if entry.get("activity") == _INPUT and isinstance(entry.get("tensor"), dict)
    ]
    if not tensors:
        raise Bad("the trace has no input tensor: trace with level=TENSORS too")
    return [_tensor(entry) for entry in tensors]


def _tensor(entry: Mapping[str, Any]) -> NamedTensor:
    name, data, kind = str(entry.get("name")), entry.get("data"), str(entry.get("dtype"))
    try:
        shape = tuple(int(size) for size in str(entry.get("shape", "")).split(",") if size)
    except ValueError:
        raise Bad(f"the input {name} has no shape of whole numbers") from None
    if not isinstance(data, str):
        raise Bad(f"the input {name} has no data")
    if kind == "BYTES":
        return NamedTensor(name, kind, shape, _texts(data, shape))
    if kind == "FP16":
        raise Bad(f"the input {name} is FP16, whose numbers Triton does not write")
    return NamedTensor(name, kind, shape, data.split(",") if data else [])


def _texts(data: str, shape: tuple[int, ...]) -> list[str]:
    """Return the texts of a BYTES tensor.

    One text is everything between the outer marks; several are parted where one ends and the next
    begins.
    """
    count = 1
    for size in shape:
        count *= size
    inner = data.removeprefix('"').removesuffix('"')
    texts = [inner] if count == 1 else inner.split('","')
    if len(texts) != count:
        raise Bad(f"the input holds {len(texts)} texts, but its shape {list(shape)} needs {count}")
    return texts


def _repaired(text: str, place: int) -> tuple[Any, int] | None:
    match = _RAW_TENSOR.match(text, place)
    if match is None:
        return None
    tensor = {name: match[name] for name in ("name", "data", "shape", "dtype")}
    return {"id": int(match["id"]), "activity": match["activity"], "tensor": tensor}, match.end()
