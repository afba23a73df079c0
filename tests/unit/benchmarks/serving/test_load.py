"""What clients measure is what a real server answered, and failures are counted, not timed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks.serving.load import Call, TimedAnswers, ask


class EveryOtherFails(BaseHTTPRequestHandler):
    """TimedAnswers every other request of a connection with 503."""

    protocol_version = "HTTP/1.1"
    count = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.count += 1
        self.send_response(200 if self.count % 2 else 503)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), EveryOtherFails)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/x"
    server.shutdown()
    server.server_close()


def test_answers_are_timed_and_failures_told(address: str) -> None:
    answers = ask(Call(address, b"{}", {}), clients=3, seconds=0.3)
    assert abs(len(answers.seconds) - len(answers.failures)) <= 3
    assert answers.failures[0].startswith("503")
    assert answers.seconds.max() < answers.span
    assert answers.throughput == pytest.approx(len(answers.seconds) / answers.span)


def test_percentiles_are_in_milliseconds() -> None:
    answers = TimedAnswers(np.arange(101) / 1000, 1.0, ())
    assert answers.milliseconds(50) == pytest.approx(50)
    assert answers.milliseconds(99) == pytest.approx(99)
