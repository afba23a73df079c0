"""The client reads every twin, and raises what the console says."""

from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from dashboards.console.client import ConsoleClient
from flows.queries import runs
from infra.errors import BadInput, NotFound, RequantError, Unavailable
from infra.releases import write_release
from infra.settings import Settings
from infra.stores.local import LocalStore
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body
from tests.unit.dashboards.conftest import RUN, SECRET

REPORT = b"""{"version": 1, "target": "onnxruntime-cpu", "gates": [
 {"metric": "flips", "group": "all", "binding": true, "verdict": "passed",
  "estimate": {"value": 0.01, "low": 0.0, "high": 0.02}, "budget": 0.05, "direction": "at most",
  "count": 400, "reason": "few", "measured": null},
 {"metric": "size-ratio", "group": "all", "binding": true, "verdict": "passed",
  "estimate": {"value": 0.3, "low": 0.3, "high": 0.3}, "budget": 0.5, "direction": "at most",
  "count": 1, "reason": "small", "measured": 300.0}]}"""


@pytest.fixture
def reader(stranger: TestClient, known: Settings) -> ConsoleClient:
    for number in ("1", "2"):
        files = {"graph.onnx": number.encode(), "golden/onnxruntime-cpu.json": REPORT}
        facts = {"recipe": {"name": "int8-max", "summary": ""}, "number": number}
        release = write_release(known.store(), "tiny", files, facts, known.signer())
        entry = body(
            EntryKind.PROMOTED,
            actor="Ada",
            reason="it passed",
            version=number,
            release=release.digest,
        )
        journal.commit("tiny", lambda _, entry=entry: entry)
    return ConsoleClient("unused", SECRET.key, http=stranger)


def test_every_twin_is_read(
    reader: ConsoleClient, browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [row.name for row in reader.models().models] == ["tiny"]
    assert reader.model("tiny").glance.champion is not None
    costs = reader.over_time("tiny").costs
    assert [(cost.version, cost.metric, cost.value) for cost in costs] == [
        ("1", "size-ratio", 0.3),
        ("2", "size-ratio", 0.3),
    ]
    view = reader.version("tiny", "2")
    assert [(point.name, point.dominated) for point in view.front] == [("2", False), ("1", False)]
    assert view.lineage[-1].digest == view.release
    compared = reader.compare("tiny", "1", "2")
    assert compared.gates[0].left == compared.gates[0].right
    for left, right, sides in (
        ("", "", "1 2"),
        ("2", "", "2 1"),
        ("", "1", "2 1"),
        ("1", "", "1 2"),
    ):
        beside = reader.compare("tiny", left, right)
        assert f"{beside.left} {beside.right}" == sides
    assert len(reader.plan("tiny").gates) == 2
    assert [target.version for target in reader.rollback_plan("tiny").targets] == ["1"]
    numbers = [
        entry.number for page in reader.audit_pages(model="tiny", size=1) for entry in page.entries
    ]
    assert numbers == [4, 3, 2, 1]
    assert "tiny" in reader.health().schedules
    monkeypatch.setattr(runs, "read_run", lambda _: RUN)
    assert reader.run(RUN.run_id).run == RUN
    monkeypatch.setattr(runs, "recent_runs", lambda *_: [RUN])
    assert [item.word for item in reader.runs().runs] == ["Running"]
    for page in ("versions/2", "compare"):
        assert browser.get(f"/models/tiny/{page}").status_code in (200, 404)


@pytest.mark.parametrize(
    ("problem", "unknown"),
    [
        (Unavailable("MLflow did not answer: see whether it runs"), 503),
        (NotFound("MLflow did not answer with version 2: it is gone"), 404),
    ],
)
def test_without_the_registry_a_version_is_shown_as_the_ledger_has_it(
    reader: ConsoleClient,
    browser: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    problem: RequantError,
    unknown: int,
) -> None:
    class Away:
        def version(self, *_: str) -> None:
            raise problem

    monkeypatch.setattr(Settings, "registry", lambda _: Away())
    page = browser.get("/models/tiny/versions/2")
    assert page.status_code == 200
    assert "MLflow did not answer" in page.text
    assert "size-ratio" in page.text
    assert browser.get("/models/tiny/versions/9").status_code == unknown


def test_without_the_store_every_page_says_so(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("the store did not answer: check the network")

    for question in ("list", "get", "stamps"):
        monkeypatch.setattr(LocalStore, question, away)
    pages = ("", "/requantize", "/rollback", "/compare", "/versions/2")
    for path in ("/", "/audit", "/api/models", *(f"/models/tiny{page}" for page in pages)):
        answer = browser.get(path)
        assert answer.status_code == 503, path
        assert "the store did not answer" in answer.text
    health = browser.get("/health")
    assert health.status_code == 200, health.text
    assert "the store did not answer" in health.text


def test_what_is_not_there_is_raised_as_the_console_says_it(reader: ConsoleClient) -> None:
    with pytest.raises(NotFound, match="no model is called"):
        reader.model("nobody")
    with pytest.raises(NotFound, match="9"):
        reader.compare("tiny", "9")
    with pytest.raises(BadInput, match="no moment"):
        reader.audit(at="yesterday")


def test_a_console_that_is_away_or_refuses_is_said() -> None:
    def away(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    def answering(transport: Any) -> ConsoleClient:
        http = httpx.Client(base_url="http://x", transport=httpx.MockTransport(transport))
        return ConsoleClient("unused", "no key", http=http)

    with answering(away) as client, pytest.raises(Unavailable, match="did not answer"):
        client.models()
    refused = answering(lambda _: httpx.Response(401, text="Open the console by the link"))
    with refused as client, pytest.raises(Exception, match="Open the console"):
        client.models()
