"""The way to Prefect, MLflow and Evidently, also while they start."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from fastapi.testclient import TestClient

from flows.orchestration.services import announced
from infra.settings import Settings
from tests.unit.dashboards.conftest import ESCAPED, HOSTILE


@contextmanager
def answering(known: Settings, seconds: float | None) -> Iterator[str]:
    """Listen as MLflow, and answer the first question after so long; None: never."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def answer() -> None:
            with suppress(OSError), door.accept()[0] as caller:
                caller.recv(4096)
                time.sleep(seconds or 0.0)
                caller.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")

        address = f"http://127.0.0.1:{door.getsockname()[1]}"
        if seconds is not None:
            threading.Thread(target=answer, daemon=True).start()
        with announced(known, {"mlflow": address}):
            yield address


def test_a_neighbour_that_is_up_is_opened_at_once(browser: TestClient, known: Settings) -> None:
    with answering(known, 0.0) as address:
        answer = browser.get("/beside/MLflow", params={"path": "/#/models/tiny"})
    assert (answer.status_code, answer.headers["location"]) == (307, f"{address}/#/models/tiny")


def test_a_neighbour_that_starts_is_waited_for_on_a_page_that_goes_on_by_itself(
    browser: TestClient, known: Settings
) -> None:
    with answering(known, None) as address:
        page = browser.get("/beside/MLflow", params={"path": f"/{HOSTILE}"}).text
    assert "MLflow is starting" in page
    assert f'http-equiv="refresh" content="0; url={address}/{ESCAPED}"' in page
    assert HOSTILE not in page


@pytest.mark.parametrize(
    ("title", "path", "status"),
    [("Elsewhere", "/", 404), ("MLflow", "@evil.example/", 400), ("MLflow", "/", 503)],
)
def test_nobody_is_led_to_where_no_neighbour_answers(
    browser: TestClient, known: Settings, title: str, path: str, status: int
) -> None:
    with announced(known, {"mlflow": "http://127.0.0.1:9"}):
        assert browser.get(f"/beside/{title}", params={"path": path}).status_code == status
