"""What a stranger may do with a connection, on real sockets."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from websockets.sync.client import connect

from infra.processes.bounded_http import BoundedHttp, most_connections

HEAD = b"POST / HTTP/1.1\r\nHost: h\r\n"
WHOLE = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
LARGE = 8 * 2**20
"""Bytes of the answer at /large: more than the sockets between hold."""


class Hasty(BoundedHttp):
    """Waits shorter, so that a test does."""

    head_s, write_s = 0.3, 0.5


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a POST with the length of its body, a GET at once, /slow after two heads' time."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"]})
        return
    length, more = 0, scope["type"] == "http" and scope["method"] == "POST"
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(2 * Hasty.head_s)
    body = bytes(LARGE) if scope["path"] == "/large" else b"%d" % length
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(Hasty) as port:
        yield port


@contextmanager
def serving(protocol: type[BoundedHttp]) -> Iterator[int]:
    config = uvicorn.Config(
        application,
        port=0,
        http=protocol,
        lifespan="off",
        log_level="critical",
        timeout_keep_alive=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield int(server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    thread.join()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        yield client


def dripped(client: socket.socket, data: bytes, every_s: float = 0.05) -> None:
    """Send byte by byte, until all is sent or the other side has closed."""
    for byte in data:
        time.sleep(every_s)
        try:
            client.sendall(bytes([byte]))
        except OSError:
            return


def answered(client: socket.socket, body: bytes) -> bool:
    """Return whether the next answer is a good one, of this body."""
    received = b""
    while piece := client.recv(65536):
        received += piece
        if received.endswith(b"\r\n\r\n" + body):
            return received.startswith(b"HTTP/1.1 200 OK\r\n")
    return False


def rest(client: socket.socket) -> bytes:
    """Return what comes until the connection ends."""
    received = b""
    while True:
        try:
            piece = client.recv(65536)
        except ConnectionResetError:
            return received
        if not piece:
            return received
        received += piece


def is_problem(answer: bytes, status: int, sentence: str) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    document = json.loads(body)
    return (
        head.startswith(b"HTTP/1.1 %d " % status)
        and b"content-type: application/problem+json" in head.lower()
        and b"connection: close" in head.lower()
        and document["status"] == status
        and sentence in document["detail"]
        and document["error"] == document["detail"]
    )


@pytest.mark.parametrize("before", [b"", WHOLE], ids=["first", "kept alive"])
def test_a_head_that_drips_is_given_up_and_told(port: int, before: bytes) -> None:
    with connected(port) as client:
        if before:
            client.sendall(before)
            assert answered(client, b"0")
        began = time.monotonic()
        dripped(client, HEAD * 3)
        assert is_problem(rest(client), 408, "within 0.3 s")
        assert time.monotonic() - began < 6


def test_whoever_says_nothing_is_let_go_in_silence(port: int) -> None:
    with connected(port) as client:
        assert rest(client) == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n",
    ],
)
def test_what_is_no_http_is_told_so_by_a_problem_document(port: int, sent: bytes) -> None:
    with connected(port) as client:
        client.sendall(sent)
        assert is_problem(rest(client), 400, "no request of HTTP/1.1")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-Y: z\r\n" * 10_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nX-Y: " + b"z" * 200_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Y: " + b"z" * 200_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;x=" + b"y" * 200_000,
    ],
    ids=["url", "headers", "endless header", "trailer", "chunk extension"],
)
def test_a_head_without_end_is_not_kept(port: int, sent: bytes) -> None:
    with connected(port) as client:
        client.sendall(sent)
        assert is_problem(rest(client), 431, "larger than 65536 bytes")


def test_a_client_that_still_sends_when_it_is_refused_reads_why(port: int) -> None:
    async def sent() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n")
        for _ in range(40):
            writer.write(b"X-Y: " + b"z" * 10_000)
            await asyncio.sleep(0.005)
        answer = await reader.read()  # of a connection that is reset there is nothing to read
        writer.close()
        return answer

    assert is_problem(asyncio.run(sent()), 431, "larger than 65536 bytes")


def test_requests_before_a_bad_one_are_answered_and_it_alone_is_not(port: int) -> None:
    with connected(port) as client:
        client.sendall(WHOLE.replace(b"/ ", b"/slow ", 1) + b"\0\0\0")
        answer = rest(client)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.count(b"HTTP/1.1") == 1


def test_a_body_that_was_answered_before_its_end_holds_no_connection(port: int) -> None:
    with connected(port) as client:
        began = time.monotonic()
        client.sendall(WHOLE[:-2] + b"Content-Length: 1000\r\n\r\n")
        dripped(client, b"x" * 40)
        assert rest(client).count(b"HTTP/1.1 200 OK") in (0, 1)  # 0: it was reset first
        assert time.monotonic() - began < 4


def test_whoever_takes_nothing_of_the_answer_is_let_go(port: int) -> None:
    with connected(port) as client:
        client.sendall(WHOLE.replace(b"/ ", b"/large ", 1))
        time.sleep(4 * Hasty.write_s)
        assert len(rest(client)) < LARGE


def test_slow_answers_bodies_and_idle_connections_stay(port: int) -> None:
    with connected(port) as client:
        client.sendall(WHOLE.replace(b"/ ", b"/slow ", 1))
        assert answered(client, b"0")
        time.sleep(3 * Hasty.head_s)  # less than uvicorn keeps it
        client.sendall(HEAD + b"Content-Length: 12\r\n\r\n")
        dripped(client, b"x" * 12)
        assert answered(client, b"12")
        client.sendall(WHOLE.replace(b"/ ", b"/large ", 1))
        taken = 0
        while taken < LARGE:  # slowly, but some of it
            time.sleep(0.001)
            piece = client.recv(65536)
            assert piece, "it was let go"
            taken += len(piece)


def test_an_open_websocket_stays(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/") as client:
        time.sleep(2 * Hasty.head_s)
        client.send("still here")
        assert client.recv(timeout=5) == "still here"


def test_a_connection_too_many_is_told_to_come_again_and_takes_no_place() -> None:
    class Narrow(Hasty):
        most, linger_s = 2, 0.1

    with serving(Narrow) as port, connected(port) as first, connected(port) as second:
        for client in (first, second):
            client.sendall(WHOLE)
            assert answered(client, b"0")
        with connected(port) as silent:
            began = time.monotonic()
            assert rest(silent) == b""
            assert time.monotonic() - began < Narrow.head_s
        with connected(port) as third:
            third.sendall(WHOLE)
            refusal = rest(third)
            assert is_problem(refusal, 503, "try again")
            assert b"retry-after: 1" in refusal.lower()
        first.close()
        first_again = b""
        while not first_again.startswith(b"HTTP/1.1 200"):  # until the server knows that it left
            with connected(port) as fourth:
                fourth.sendall(WHOLE[:-2] + b"Connection: close\r\n\r\n")
                first_again = rest(fourth)


def test_half_of_the_open_files_are_left_for_the_process_itself() -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, files[1]))
        assert most_connections() == 150
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
