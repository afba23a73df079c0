"""A ledger over a store behind a proxy that fails, stalls, drops, truncates or repeats requests."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest

from infra.errors import Unavailable
from infra.settings import Settings, settings
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body
from tests.contract.conftest import S3Server

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


class Proxy(ThreadingHTTPServer):
    """Sends requests on to a server; the next ones of a method meet with a fault."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.fault, self.method, self.left, self.struck = target, "", "", 0, 0

    def strike(self, fault: str, method: str, times: int) -> None:
        self.fault, self.method, self.left, self.struck = fault, method, times, 0

    def due(self, method: str) -> str:
        if self.left and method == self.method:
            self.left -= 1
            self.struck += 1
            return self.fault
        return ""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        fault = self.server.due(self.command)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault.isdigit():
            return self._answer(int(fault), [], b"")
        if fault == "dropped before":
            return self._drop()
        if fault == "slow":
            time.sleep(0.5)
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

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass  # noqa: N815

    def _forward(self, data: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.server.target).netloc, timeout=30)
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


@contextmanager
def proxied(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


@pytest.fixture
def proxy(moto: S3Server, workspace: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Point the workspace at a fresh bucket behind a proxy."""
    moto.admit(monkeypatch)
    with proxied(moto.endpoint) as running:
        monkeypatch.setenv("REQUANT_STORE_URL", f"s3://{moto.new_bucket()}")
        monkeypatch.setenv("REQUANT_S3_ENDPOINT_URL", f"http://127.0.0.1:{running.server_port}")
        settings.cache_clear()
        yield running
    settings.cache_clear()


def decided(_: object, reason: str) -> dict[str, object]:
    return body(EntryKind.DECIDED, actor="a", reason=reason)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_entry_is_written_once_or_the_caller_is_told(proxy: Proxy, fault: str) -> None:
    appended_through(proxy, fault, "PUT", 1)


@pytest.mark.soak
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD"])
@pytest.mark.parametrize("fault", FAULTS)
def test_so_it_is_whatever_request_is_struck(
    proxy: Proxy, fault: str, method: str, times: int
) -> None:
    appended_through(proxy, fault, method, times)


def appended_through(proxy: Proxy, fault: str, method: str, times: int) -> None:
    """Append an entry while requests are struck, and read the ledger."""
    journal.commit("m", decided, "first")
    proxy.strike(fault, method, times)
    try:
        journal.commit("m", decided, "second")
        told = False
    except Unavailable:
        told = True
    proxy.strike("", "", 0)
    reasons = [entry.reason for entry in journal.read("m")]
    assert reasons.count("first") == 1
    assert reasons.count("second") <= 1
    assert told or reasons == ["first", "second"]
    journal.commit("m", decided, "third")
    assert journal.read("m")[-1].reason == "third"
    assert list(journal.faults("m")) == []
