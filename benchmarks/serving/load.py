"""Clients that ask one HTTP server again and again, as cheaply as Python can."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One request, written once and sent many times."""

    address: str  # http://HOST:PORT/path
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class TimedAnswers:
    """What became of the requests of one span."""

    seconds: NDArray[np.float64]  # of each answer
    span: float  # seconds from the first request to the end
    failures: tuple[str, ...]
    ends: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # monotonic, of each
    marks: tuple[str, ...] = ()  # what was read of each answer

    @property
    def throughput(self) -> float:
        """Return answers a second."""
        return len(self.seconds) / self.span

    def milliseconds(self, percentile: float) -> float:
        """Return a percentile of the latencies."""
        return float(np.percentile(self.seconds, percentile)) * 1e3 if len(self.seconds) else 0.0


def ask(
    call: Call,
    clients: int,
    seconds: float,
    mark: Callable[[bytes], str] | None = None,
    *,
    every_s: float = 0.0,
) -> TimedAnswers:
    """Let so many clients ask for so many seconds, each over a connection that it keeps.

    Args:
        call: What each asks.
        clients: How many.
        seconds: How long.
        mark: Reads something of each answer's body, such as its version.
        every_s: Seconds between two requests of a client, where answers do not take longer.
    """
    taken: list[list[tuple[float, float, str]]] = [[] for _ in range(clients)]
    failures: list[str] = []
    end = time.perf_counter() + seconds

    def keep_asking(own: list[tuple[float, float, str]]) -> None:
        place = urlsplit(call.address)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
        while (began := time.perf_counter()) < end:
            due = began + every_s
            try:
                connection.request("POST", place.path, call.body, dict(call.headers))
                answer = connection.getresponse()
                read = answer.read()
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                connection.close()
                continue
            if answer.status == 200:
                took = time.perf_counter() - began
                own.append((took, time.monotonic(), mark(read) if mark else ""))
            else:
                failures.append(f"{answer.status}: {read[:200]!r}")
            time.sleep(max(0.0, due - time.perf_counter()))
        connection.close()

    threads = [threading.Thread(target=keep_asking, args=(own,)) for own in taken]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    span = time.perf_counter() - started
    answers = sorted((each for own in taken for each in own), key=lambda answer: answer[1])
    seconds_taken, ends, marks = zip(*answers, strict=True) if answers else ((), (), ())
    return TimedAnswers(
        np.array(seconds_taken), span, tuple(failures), np.array(ends), tuple(marks)
    )


def joined(spans: Sequence[TimedAnswers]) -> TimedAnswers:
    """Return the answers of spans that followed each other."""
    return TimedAnswers(
        np.concatenate([span.seconds for span in spans]),
        sum(span.span for span in spans),
        tuple(failure for span in spans for failure in span.failures),
        np.concatenate([span.ends for span in spans]),
        tuple(mark for span in spans for mark in span.marks),
    )
