"""A traffic file from outside, as a stream of requests and of records that are none.

A bad record is set aside with its reason. It is never dropped in silence, and never a reason to
lose the good ones. A file that cannot be read at all raises `BadInput`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from infra.errors import BadInput
from tasks.records import Request
from tasks.specs.spec import Task
from tasks.specs.tensors import PayloadShape
from tasks.traffic.checks import Refusal, RequestRules
from tasks.traffic.formats import READERS, TrafficFormat, format_of
from tasks.traffic.formats.documents import Document
from tasks.traffic.formats.files import files_of
from tasks.traffic.formats.raw import RAW_KEPT, Again, Bad, Raw, Source
from tasks.traffic.formats.traces import requests_of
from tasks.traffic.rejects import Reject
from tasks.traffic.storage.windows import CLOCK_SKEW


@dataclass(frozen=True, slots=True)
class Accepted:
    """A record that is a request."""

    line_or_row: int
    request: Request


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A record that came before, word for word."""

    line_or_row: int


Taken = Accepted | Reject | Duplicate
"""What became of one record."""


@dataclass(frozen=True, slots=True)
class Import:
    """What a file held; nothing is missing from the two together."""

    accepted: tuple[Request, ...]
    rejected: tuple[Reject, ...]


def stream(
    path: Path,
    *,
    task: Task,
    shape: PayloadShape = None,
    format: TrafficFormat | None = None,
    first_at: datetime | None = None,
    zone: tzinfo | None = None,
    now: datetime | None = None,
    refusal: Refusal | None = None,
) -> Iterator[Taken]:
    """Yield every record of a file or folder, in bounded memory.

    Args:
        path: The file or folder.
        task: What the model does, which says whether it reads text or tensors.
        shape: That of one tensor.
        format: By default the extension tells it.
        first_at: When the first record was taken, where the format knows no date.
        zone: Where the clock stood of times that name none; None refuses such times.
        now: The latest believable time is one hour later.
        refusal: What the model cannot read, though it has the task's form.

    Raises:
        BadInput: When a file is missing, truncated or of another kind, or has columns of a wrong
            type.
    """
    check = RequestRules(task, shape, (now or datetime.now(UTC)) + CLOCK_SKEW, zone, refusal)
    reader = READERS[format or format_of(path)]
    try:
        for raw in reader(Source(files_of(path), task, shape, first_at, zone)):
            yield judged(raw, check)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror or error}): give the path of a whole file"
        ) from error


def judge_traces(
    traces: Iterable[str],
    *,
    task: Task,
    shape: PayloadShape = None,
    now: datetime | None = None,
    refusal: Refusal | None = None,
) -> Iterator[Taken]:
    """Yield the same of MLflow traces that a server hands over one by one, as JSON."""
    check = RequestRules(task, shape, (now or datetime.now(UTC)) + CLOCK_SKEW, refusal=refusal)
    source = Source((), task, shape, None)
    for number, trace in enumerate(traces, 1):
        for raw in requests_of(Document(number, trace[:RAW_KEPT], json.loads(trace)), source):
            yield judged(raw, check)


def judged(raw: Raw, check: RequestRules) -> Taken:
    """Return the request that a record is, or why it is none."""
    try:
        return Accepted(raw.number, check.request(raw.parse()))
    except Bad as bad:
        return Reject(raw.number, str(bad), raw.excerpt)
    except Again:
        return Duplicate(raw.number)


def read_import(
    path: Path, *, task: Task, shape: PayloadShape = None, now: datetime | None = None
) -> Import:
    """Read a whole `.jsonl` or `.parquet` file into memory; see `stream`."""
    records = list(stream(path, task=task, shape=shape, now=now))
    return Import(
        tuple(record.request for record in records if isinstance(record, Accepted)),
        tuple(record for record in records if isinstance(record, Reject)),
    )
