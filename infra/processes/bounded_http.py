"""Uvicorn's HTTP/1.1 protocol with bounds of its own: uvicorn has none for what comes slowly.

Its maintainers leave them open (https://github.com/Kludex/uvicorn/issues/157). A request's head has
to come within a time and a size, a client has to take its answer, and connections are counted, so
that the process keeps open files for its own work. What is no HTTP is told so by a problem
document, as every other error is.
"""

from __future__ import annotations

import asyncio
import resource
from asyncio import TimerHandle
from collections.abc import Mapping
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infra.access.problems import problem

NO_HTTP = "the bytes are no request of HTTP/1.1"
FULL = "this server has as many connections as it keeps open: try again, or use one of yours again"
MOST_CONNECTIONS = 4096


def most_connections() -> int:
    """Return how many connections are kept: half of the files that this process may open."""
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if open_files < 0 else min(MOST_CONNECTIONS, open_files // 2)


class BoundedHttp(HttpToolsProtocol):
    """One connection.

    From its first byte on a head has `head_s` seconds, however often a byte comes. A connection
    that sends nothing at first is closed in silence after as long, as browsers open some ahead;
    between two requests uvicorn's own `timeout_keep_alive` counts.
    """

    head_s = 10.0
    """Seconds in which a head has to come, and what is left of a body that was answered before."""
    most_bytes = 64 * 1024
    """Of a head, and of whatever else may come without a piece of a body."""
    write_s = 60.0
    """Seconds in which a client has to take something of what is sent."""
    linger_s = 1.0
    """Seconds for which what a refused client still sends is thrown away: a connection that is
    closed over unread bytes is reset, and the answer may be lost."""
    most = most_connections()
    """Connections; one more is told to come again as soon as it says something."""

    _late: TimerHandle | None = None
    _stuck: TimerHandle | None = None
    _began = False  # whether a byte of the next head has come
    _whole = False  # whether all of it has, and its body is read
    _surplus = False  # whether there were as many connections as are kept
    _unfit = False  # whether nothing more is read
    _size = 0  # bytes since the last whole head or piece of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(transport)
        self._surplus = len(self.connections) > self.most
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._expected()
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came; of a connection that was refused nothing."""
        if self._surplus and not self._unfit:
            self._refuse(503, FULL, {"Retry-After": "1"})
        if self._unfit:
            return
        self._began = self._began or not self._whole
        self._size += len(data)
        super().data_received(data)
        if self._unfit:
            return
        if self._size > self.most_bytes:
            self._refuse_size()
        elif self._began and not self._whole:  # most heads come at once, and need no time
            self._expect()

    def on_message_begin(self) -> None:
        """Begin a head, which may follow a whole request in the same bytes."""
        super().on_message_begin()
        self._began = True

    def on_headers_complete(self) -> None:
        """Begin to answer; a head that is too large is refused, and the parser is told so."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.most_bytes:
            self._refuse_size()
            raise ValueError("the head is too large")
        super().on_headers_complete()
        self._expected()
        self._whole, self._size = True, 0

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._size = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next head from its first byte on."""
        super().on_message_complete()
        self._expected()
        self._began, self._whole, self._size = False, False, 0

    def on_response_complete(self) -> None:
        """Wait no longer than for a head for what is left of a body that was answered before."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_writing()
        elif self._whole and self.cycle.response_complete:
            self._expect()

    def pause_writing(self) -> None:
        """Wait until the client takes what was sent."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Write on: the client took it."""
        self._taken()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle for too long."""
        self._close()

    def send_400_response(self, msg: str) -> None:
        """Tell that what came is no HTTP, in uvicorn's stead."""
        if not self._unfit:
            self._refuse(400, NO_HTTP)

    def _expect(self) -> None:
        if self._late is None:
            patience = self.linger_s if self._surplus else self.head_s
            self._late = self.loop.call_later(patience, self._give_up)

    def _expected(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self._began and not self._whole:
            self._refuse(408, f"the head of the request did not come within {self.head_s:g} s")
        else:
            self._close()

    def _refuse_size(self) -> None:
        self._refuse(431, f"the head of the request is larger than {self.most_bytes} bytes")

    def _refuse(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        """Read no more; answer in the application's stead where an answer is due, and close."""
        self._unfit = True
        self._expected()
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if answering and not self._whole:  # those before are answered, and nothing behind them
            cycle.keep_alive = False
            return
        if answering:  # the request itself breaks off
            cycle.disconnected = True
            cycle.message_event.set()
        if not answering or not (self.pipeline or cycle.response_started):
            self.transport.write(_rendered(status, sentence, headers or {}))
            if self.transport.can_write_eof():
                self.transport.write_eof()
                self.flow.resume_reading()
                self._late = self.loop.call_later(self.linger_s, self._close)
                return
        self._close()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
        self._watch_writing()

    def _watch_writing(self) -> None:
        """Give up a client that takes nothing for too long."""
        self._taken()
        left = self.transport.get_write_buffer_size()
        if left:
            self._stuck = self.loop.call_later(self.write_s, self._give_up_writing, left)

    def _give_up_writing(self, left: int) -> None:
        if self.transport.get_write_buffer_size() < left:
            self._watch_writing()
        else:
            self.transport.abort()

    def _taken(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


def _rendered(status: int, sentence: str, headers: Mapping[str, str]) -> bytes:
    """Return a problem document as it is sent."""
    closing = {**headers, "Connection": "close"}
    answer = problem(status, sentence, closing, {"error": sentence})
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [name + b": " + value for name, value in answer.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])
