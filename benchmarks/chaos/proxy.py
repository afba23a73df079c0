"""A proxy that fails, stalls, drops, truncates or repeats requests: in front of a store or MLflow.

It is told what to do next, and says how many requests it saw, on a path of its own.
"""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CONTROL = "/-/strike"
FAULTS = (
    "500",
    "503",
    "429",
    "403",
    "slow",
    "dropped before",
    "dropped after",
    "truncated",
    "twice",
)
"""What becomes of a request; an answer alone, the request never sent on, for the first four."""


@dataclass(frozen=True, slots=True)
class Strike:
    """Which of the next requests meet with which fault."""

    fault: str
    times: int
    after: int = 0  # requests that pass before
    method: str = ""  # only these; empty: any


NONE = Strike("", 0)


class Proxy(ThreadingHTTPServer):
    """Sends requests on to a server, some of which meet with a fault."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, target: str, port: int = 0) -> None:
        """Listen on a port of 127.0.0.1; `target` is the server's address."""
        super().__init__(("127.0.0.1", port), _Handler)
        self.target = urlsplit(target).netloc
        self.strike(NONE)

    def strike(self, strike: Strike) -> None:
        """Count anew, and let this become of what comes."""
        self._next, self.seen, self.struck = strike, 0, 0

    def handle_error(self, *_: object) -> None:
        """Say nothing: that clients are killed is what this is for."""

    def due(self, method: str) -> str:
        """Return the fault of the request at hand, empty for none."""
        if self._next.method not in ("", method):
            return ""
        self.seen += 1
        if self.seen <= self._next.after or self.struck >= self._next.times:
            return ""
        self.struck += 1
        return self._next.fault


def told(address: str, strike: Strike) -> tuple[int, int]:
    """Tell a proxy elsewhere what to do; return what it saw and struck since it was last told."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.request("POST", CONTROL, json.dumps(asdict(strike)))
    seen, struck = json.loads(connection.getresponse().read())
    connection.close()
    return int(seen), int(struck)


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _pass(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == CONTROL:
            counts = json.dumps([self.server.seen, self.server.struck]).encode()
            self.server.strike(Strike(**json.loads(data)))
            return self._answer(200, [], counts)
        fault = self.server.due(self.command)
        if fault.isdigit():
            return self._answer(int(fault), [], b"")
        if fault == "dropped before":
            return self._drop()
        if fault == "slow":
            time.sleep(0.5)
        try:
            return self._sent_on(fault, data)
        except OSError:  # the server is down: the client hears nothing, as without a proxy
            return self._drop()

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_PATCH = _pass  # noqa: N815

    def _sent_on(self, fault: str, data: bytes) -> None:
        if fault == "twice":
            self._forward(data)
        status, headers, answer = self._forward(data)
        if fault == "dropped after":
            return self._drop()
        if fault == "truncated":
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer) + 10))
            self.end_headers()
            self.wfile.write(answer[: len(answer) // 2])
            return self._drop()
        return self._answer(status, headers, answer)

    def _forward(self, data: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.target, timeout=30)
        connection.request(self.command, self.path, data, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _drop(self) -> None:
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
