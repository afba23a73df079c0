"""Ports and addresses of a workspace's services."""

import socket
import threading

import pytest

from flows.commands.up import _moved
from flows.orchestration.services import CONSOLE, MLFLOW, announced, listen, running_address
from infra.errors import Unavailable
from infra.processes.supervision import listening_socket, port_of
from infra.settings import Settings, read_settings


def test_a_default_port_that_is_taken_gives_way_and_one_that_was_set_is_refused(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        taken = foreign.getsockname()[1]
        with listening_socket(taken, fixed=False) as opened:
            assert port_of(opened) != taken
            usual = workspace.model_copy(update={"mlflow_port": taken})
            assert f"port {taken} is taken, so MLflow listens on" in str(
                _moved(usual, MLFLOW, opened)
            )
        monkeypatch.setenv("REQUANT_MLFLOW_PORT", str(taken))
        with pytest.raises(Unavailable, match=f"the port {taken} of 127.0.0.1 cannot be had"):
            listen(read_settings(), MLFLOW)


def test_a_port_that_was_left_to_us_is_no_news(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUANT_CONSOLE_PORT", "0")
    with listen(read_settings(), CONSOLE) as opened:
        assert _moved(read_settings(), CONSOLE, opened) is None


def test_a_note_that_a_stranger_answers_to_does_not_count(workspace: Settings) -> None:
    """Send nothing but a nonce to who listens now where a killed service left its note."""
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        foreign.settimeout(10)
        address = f"http://127.0.0.1:{foreign.getsockname()[1]}"
        with announced(workspace, {CONSOLE.name: address}):
            heard: list[bytes] = []

            def answer() -> None:
                connection, _ = foreign.accept()
                heard.append(connection.recv(4096))
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"proof": "no"}')
                connection.close()

            listener = threading.Thread(target=answer)
            listener.start()
            assert running_address(workspace, CONSOLE) is None
            listener.join()
    assert workspace.secret().key.encode() not in heard[0]
    assert b"authorization" not in heard[0].lower()
