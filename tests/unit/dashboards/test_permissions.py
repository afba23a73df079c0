"""The console with users: every route has a role, pages show what one may, the server refuses."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute, Mount, Route

from dashboards.console.permissions import ROLES
from flows.commands.access import users
from infra.access.guard import Guard
from infra.access.roles import Role
from infra.settings import Settings, settings
from tests.unit.dashboards.conftest import HERE, RUN, SECRET, own_form

TOKENS: dict[str, str] = {}


@pytest.fixture
def staffed(
    known: Settings, console: FastAPI, browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Give the store users; return what opens a client that shows a user's token.

    No Prefect answers.
    """
    admin = users.add("ada", ["admin"])
    monkeypatch.setenv("REQUANT_TOKEN", admin.token)
    settings.cache_clear()
    users.add("vic", ["viewer"])
    users.add("olga", ["operator:tiny"])
    users.add("paul", ["approver:tiny"])
    users.add("otto", ["operator:other"])
    tokens = {name: users.issue(name, 1).token for name in ("vic", "olga", "paul", "otto")}
    guarded = Guard(console, "console", SECRET, directory=settings().directory())

    def client(name: str) -> TestClient:
        shown = {"Authorization": f"Bearer {tokens.get(name, admin.token)}", "Origin": HERE}
        return TestClient(guarded, base_url=HERE, headers=shown, follow_redirects=False)

    return client


def routes_below(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Yield every route; FastAPI keeps those of a router behind one of its own."""
    for route in routes:
        router = getattr(route, "original_router", None)
        yield from routes_below(router.routes) if router else (route,)


def routes_of(application: FastAPI) -> set[str]:
    """Return every route as the table names it; a route with several methods once for each."""
    return {
        f"{method} {route.path}"
        for route in routes_below(application.routes)
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }


def test_every_route_of_the_console_has_a_role_in_the_table(console: FastAPI) -> None:
    assert routes_of(console) == set(ROLES)
    mounts = [route.path for route in console.routes if isinstance(route, Mount)]
    assert mounts == ["/static"]  # our own files, which whoever is let in may read


def test_only_a_get_needs_no_more_than_a_viewer() -> None:
    changing = {name: role for name, role in ROLES.items() if not name.startswith("GET ")}
    assert changing
    assert Role.VIEWER not in changing.values()


ORDERS = [
    ("/models/tiny/requantize", "requantize tiny", {"reason": "because"}, "olga"),
    ("/models/tiny/maintain", "maintenance tiny", {}, "olga"),
    ("/models/tiny/rollback", "rollback tiny", {"reason": "because"}, "olga"),
    (
        "/models/tiny/answer",
        "approval tiny",
        {"reason": "because", "version": "2", "verdict": "approve"},
        "paul",
    ),
]


@pytest.mark.parametrize(("path", "form", "sent", "allowed"), ORDERS)
def test_an_order_needs_its_role_of_its_model(
    staffed: Any,
    triggered: list[tuple[Any, ...]],
    path: str,
    form: str,
    sent: dict[str, str],
    allowed: str,
) -> None:
    for name in {"vic", "olga", "paul", "otto"} - {allowed}:
        answer = staffed(name).post(path, data={"form_id": own_form(form), **sent})
        assert answer.status_code == 403, name
        assert "needs the role" in answer.text
    assert not triggered
    for name in (allowed, "ada"):
        answer = staffed(name).post(path, data={"form_id": own_form(form), **sent})
        assert answer.status_code == 303
        assert triggered[-1][-1] == name
    refused = [entry for entry in users.log() if entry.kind == "refused"]
    assert {entry.actor for entry in refused} == {"vic", "olga", "paul", "otto"} - {allowed}


def test_a_page_offers_what_its_reader_may_do(staffed: Any) -> None:
    pages = {name: staffed(name).get("/models/tiny").text for name in ("vic", "olga", "paul")}
    assert {name for name, page in pages.items() if "Maintain now" in page} == {"olga"}
    assert {name for name, page in pages.items() if 'value="approve"' in page} == {"paul"}
    assert all(f"signed in as <b>{name}</b>" in page for name, page in pages.items())
    assert "disabled" in staffed("vic").get("/models/tiny/requantize").text
    assert "disabled" not in staffed("olga").get("/models/tiny/requantize").text


def test_what_is_of_a_model_is_shown_to_its_viewers_only(
    staffed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = staffed("otto")
    for path in ("/api/models/tiny", "/api/models/tiny/plan", "/reports/tiny/w/page.html"):
        assert stranger.get(path).status_code == 403
    assert stranger.get("/api/models").json()["models"] == []
    assert [row["name"] for row in staffed("olga").get("/api/models").json()["models"]] == ["tiny"]
    assert stranger.get("/api/audit").json()["total"] == 0
    assert staffed("olga").get("/api/audit").json()["total"] > 0
    assert stranger.get("/metrics").status_code == 403
    monkeypatch.setattr("flows.queries.runs.read_run", lambda _: RUN)
    assert stranger.get(f"/api/runs/{RUN.run_id}").status_code == 403


def test_a_refused_program_gets_a_problem_document(staffed: Any) -> None:
    answer = staffed("otto").get("/api/models/tiny")
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json()) == {"type", "title", "status", "detail"}


def test_whoever_signs_out_is_out(staffed: Any, console: FastAPI) -> None:
    token = staffed("vic").headers["Authorization"].removeprefix("Bearer ")
    guarded = Guard(console, "console", SECRET, directory=settings().directory())
    with TestClient(guarded, base_url=HERE, follow_redirects=False) as browser:
        page = browser.get("/", headers={"Accept": "text/html"})
        assert page.status_code == 401
        assert "Your token" in page.text
        browser.headers["Origin"] = HERE
        assert browser.post("/-/sign-in", data={"token": token}).status_code == 303
        assert browser.get("/").status_code == 200
        cookies = dict(browser.cookies)
        assert browser.post("/-/sign-out").status_code == 200
        assert browser.get("/", cookies=cookies).status_code == 401  # also by a copy of the cookie
