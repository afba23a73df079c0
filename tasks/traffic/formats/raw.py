"""What every format is read into: records with their place, not yet checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path
from typing import NoReturn

from tasks.specs.spec import Task
from tasks.specs.tensors import PayloadShape

LONGEST_LINE = 16_000_000  # bytes of JSON: a text of 1 MB may be escaped sixfold
RAW_KEPT = 4_000  # characters of a rejected record that are carried along


class Bad(Exception):
    """Why one record is no request."""


class Again(Exception):
    """The very same record came before."""


@dataclass(frozen=True, slots=True)
class Lone:
    """A request or response whose other side was not there."""

    path: Path
    place: int  # in its file, from 1
    mark: str  # hexadecimal digest of its side and id


@dataclass(frozen=True, slots=True)
class Raw:
    """One record as it stands in a file."""

    number: int  # of the line, row or document, from 1
    excerpt: str  # its beginning
    parse: Callable[
        [], Mapping[str, object]
    ]  # the fields that `tasks.traffic.checks` reads; raises Bad, Again
    lone: Lone | None = None  # set where the other side was not there


@dataclass(frozen=True, slots=True)
class Source:
    """What a reader is told."""

    files: Iterable[Path]  # each is read to its end before the next is asked for
    task: Task
    shape: PayloadShape  # of one tensor
    first_at: datetime | None  # when the first record was taken, where a format knows no date
    zone: tzinfo | None = None  # of times without one; None: such times are refused
    named: Callable[[Path], str] = str  # what a file was called where it came from
    origin: int | None = None  # the stamp at `first_at`, nanoseconds; None: the least of the files
    # Told of each file's end: how many documents it held, and what broke it off; None:
    # that is raised.
    ended: Callable[[Path, int, Exception | None], None] | None = None


def failing(number: int, excerpt: str, error: Bad | Again, lone: Lone | None = None) -> Raw:
    """Return a record that is known to be no request."""

    def parse() -> NoReturn:
        raise error

    return Raw(number, excerpt[:RAW_KEPT], parse, lone)


def ready(number: int, excerpt: str, record: Mapping[str, object]) -> Raw:
    """Return a record whose fields were read already."""
    return Raw(number, excerpt[:RAW_KEPT], lambda: record)
