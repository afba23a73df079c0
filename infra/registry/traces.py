"""Traces of MLflow experiments, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from infra.errors import NotFound
from infra.registry.connection import Connection

_T = TypeVar("_T")
PAGE = 100
"""Traces in one page; each may hold a long conversation."""


@dataclass(frozen=True, slots=True)
class TraceStamp:
    """One trace of an experiment, without its spans."""

    trace_id: str
    began_ms: int  # since 1970
    ended: bool  # False while the request is being answered


@dataclass(frozen=True, slots=True)
class TracePage:
    """Some traces of an experiment."""

    stamps: tuple[TraceStamp, ...]
    documents: Callable[[Container[str]], Mapping[str, str]]
    """Of these ids: id -> the trace as JSON."""


def read_traces(connection: Connection, experiment: str) -> Iterator[str]:
    """Yield every trace of an experiment as JSON, oldest first, a page in memory at a time.

    Raises `NotFound` when there is no experiment of that name, `Unavailable`.
    """
    for documents, _ in _pages(connection, experiment, 0, lambda trace: str(trace.to_json())):
        yield from documents


def read_trace_pages(connection: Connection, experiment: str, since_ms: int) -> Iterator[TracePage]:
    """Yield the traces that began at `since_ms` or later, oldest first, a page at a time.

    Their spans stay on the server until they are asked for.
    Raises `NotFound` when there is no experiment of that name, `Unavailable`.
    """

    def documents(token: str | None, wanted: Container[str]) -> Mapping[str, str]:
        read = partial(_document, wanted)
        page, _ = next(_pages(connection, experiment, since_ms, read, token=token))
        return dict(filter(None, page))

    for stamps, token in _pages(connection, experiment, since_ms, _stamp, spans=False):
        yield TracePage(tuple(stamps), partial(documents, token))


def _pages(
    connection: Connection,
    experiment: str,
    since_ms: int,
    read: Callable[[Any], _T],
    *,
    spans: bool = True,
    token: str | None = None,
) -> Iterator[tuple[list[_T], str | None]]:
    """Yield what `read` makes of each trace of a page, and the token the page was asked with."""
    place = _experiment_id(connection, experiment)
    while True:
        with connection.client(f"read the traces of {experiment}") as client:
            page = client.search_traces(
                locations=[place],
                filter_string=f"timestamp_ms >= {since_ms}" if since_ms else None,
                max_results=PAGE,
                order_by=["timestamp_ms ASC"],
                page_token=token,
                include_spans=spans,
            )
            traces = [read(trace) for trace in page]
        yield traces, token
        token = page.token
        if not token:
            return


def _experiment_id(connection: Connection, name: str) -> str:
    with connection.client(f"find the experiment {name}") as client:
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise NotFound(
            f"The registry {connection.address} has no experiment {name!r}: check the name."
        )
    return str(experiment.experiment_id)


def _stamp(trace: Any) -> TraceStamp:
    """Return the stamp of MLflow's `Trace`."""
    info = trace.info
    return TraceStamp(info.trace_id, info.request_time, info.state.value != "IN_PROGRESS")


def _document(wanted: Container[str], trace: Any) -> tuple[str, str] | None:
    """Return id and JSON of a trace that is wanted."""
    name = str(trace.info.trace_id)
    return (name, trace.to_json()) if name in wanted else None
