"""The guard: what reaches an application behind it, and what is answered before."""

import base64
import time
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from flows.commands.access import users
from infra.access.attempts import WRONG
from infra.access.directory import PROGRAM
from infra.access.guard import HEALTH, SUBJECT, Guard, proof
from infra.access.problems import PROBLEM
from infra.access.secret import WorkspaceSecret
from infra.access.sessions import LINK_S, ORDER_S, SESSION_S, Sessions
from infra.settings import Settings, settings

HTML = "text/html; charset=utf-8"
SECRET = WorkspaceSecret(b"a secret only for these tests...")
OTHER = WorkspaceSecret(b"of another workspace............")
HERE = "http://127.0.0.1:4200"
SOCKET = "ws://127.0.0.1:4200/socket"
KEY = {"Authorization": f"Bearer {SECRET.key}"}


async def echo(request: Request) -> JSONResponse:
    return JSONResponse(
        {"subject": request.scope[SUBJECT], "authorization": request.headers.get("authorization")}
    )


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("the application's own handshake")
    await websocket.close()


APPLICATION = Starlette(
    routes=[Route("/{path:path}", echo, methods=["GET", "POST"]), WebSocketRoute("/socket", socket)]
)


def client_of(guard: Guard) -> TestClient:
    return TestClient(guard, base_url=HERE, follow_redirects=False)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with client_of(Guard(APPLICATION, "orchestration", SECRET)) as made:
        yield made


@pytest.fixture
def browser(client: TestClient) -> TestClient:
    """Open a browser with a session."""
    client.get("/", params={"login": Sessions(SECRET).link("Ada")})
    return client


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic not-base64"},
        {"Authorization": b"Basic \xff\xfe"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Authorization": "Digest x"},
        {"Authorization": f"Bearer {OTHER.key}"},
        {"Cookie": f"{Sessions(SECRET).cookie}=forged"},
        {"Cookie": f"{Sessions(SECRET).cookie}={Sessions(OTHER).session('Eve')}"},
        {"Cookie": f"{Sessions(SECRET).cookie}={Sessions(SECRET).link('Eve')}"},
    ],
)
def test_nobody_passes_without_key_or_session(
    client: TestClient, shown: dict[str, str | bytes]
) -> None:
    assert client.get("/api/flows", headers=shown).status_code == 401
    assert client.post("/api/flows", headers=shown).status_code == 401


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"headers": {}}, 401),
        ({"headers": {"Host": "evil.example"}}, 421),
        ({"headers": {"Origin": "http://evil.example"}}, 403),
    ],
)
def test_a_refusal_is_a_problem_for_a_program_and_a_page_for_a_browser(
    client: TestClient, asked: dict[str, dict[str, str]], status: int
) -> None:
    told = client.post("/api", **asked)  # type: ignore[arg-type]
    assert (told.status_code, told.headers["content-type"]) == (status, PROBLEM)
    assert told.json()["status"] == status
    assert told.json()["error"] == told.json()["detail"]
    shown = client.get("/", headers={**asked["headers"], "Accept": "text/html"})
    assert (shown.status_code, shown.headers["content-type"]) == (status, HTML)
    assert told.headers.get("www-authenticate") == shown.headers.get("www-authenticate")


def test_a_program_shows_the_key_as_bearer_or_as_basic_password(client: TestClient) -> None:
    basic = base64.b64encode(SECRET.basic.encode()).decode()
    for authorization in (f"Bearer {SECRET.key}", f"Basic {basic}"):
        answer = client.post("/api", headers={"Authorization": authorization})
        assert answer.json()["subject"] == PROGRAM


def test_a_link_opens_a_session_and_leaves_the_address(client: TestClient) -> None:
    token = Sessions(SECRET).link("Ada")
    answer = client.get("/models", params={"login": token, "page": "2"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/models?page=2")
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert token not in answer.headers["set-cookie"]
    assert client.get("/models").json()["subject"] == "Ada"


def test_a_link_that_is_opened_ends_the_session_before(browser: TestClient) -> None:
    browser.get("/", params={"login": "forged"})
    assert browser.get("/").json()["subject"] == "Ada"
    browser.get("/", params={"login": Sessions(SECRET).link("Bob")})
    assert browser.get("/").json()["subject"] == "Bob"


def test_a_link_in_another_sites_page_leads_on_by_a_page_of_ours(client: TestClient) -> None:
    """A redirect would be followed without the strict cookie."""
    followed = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    path = '/models/"><script>'
    answer = client.get(
        path, params={"login": Sessions(SECRET).link("Ada"), "page": "2"}, headers=followed
    )
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert 'content="0;url=/models/%22%3E%3Cscript%3E?page=2"' in answer.text
    assert client.get("/models").json()["subject"] == "Ada"


def test_a_link_never_leads_elsewhere(client: TestClient) -> None:
    answer = client.get(
        f"{HERE}//elsewhere.example/", params={"login": Sessions(SECRET).link("Ada")}
    )
    assert answer.headers["location"] == "/elsewhere.example/"


def test_a_link_and_a_session_end(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    sessions = Sessions(SECRET)
    link, session = sessions.link("Ada"), sessions.session("Ada")
    now = time.time()
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + LINK_S + 2)
    opened = sessions.of_session(session)
    assert sessions.of_link(link) is None
    assert opened is not None
    assert opened.subject == "Ada"
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + SESSION_S + 2)
    assert sessions.of_session(session) is None


@pytest.mark.parametrize(
    "host", ["requant.example", "127.0.0.1.requant.example:4200", "127.0.0.1:1", "0.0.0.0:4200", ""]
)
def test_another_host_name_is_refused_even_with_the_key(client: TestClient, host: str) -> None:
    for path in ("/", HEALTH):
        assert client.get(path, headers={**KEY, "Host": host}).status_code == 421


@pytest.mark.parametrize(
    "host", ["127.0.0.1:4200", "localhost:4200", "[::1]:4200", "LOCALHOST:4200"]
)
def test_its_own_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={**KEY, "Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:8400", "http://localhost:4200", "null"]
)
def test_a_page_of_another_origin_is_refused_even_with_the_key(
    client: TestClient, origin: str
) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        assert client.request(method, "/api", headers={**KEY, "Origin": origin}).status_code == 403


def test_an_origin_of_ours_beside_a_foreign_one_is_foreign(client: TestClient) -> None:
    origins = [("Origin", HERE), ("Origin", "http://evil.example"), *KEY.items()]
    assert client.post("/api", headers=origins).status_code == 403


def test_a_session_changes_nothing_unless_the_page_was_ours(browser: TestClient) -> None:
    assert browser.post("/api").status_code == 401
    assert browser.post("/api", headers={"Origin": HERE}).status_code == 200
    assert browser.post("/api", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert browser.post("/api", headers={"Sec-Fetch-Site": "same-site"}).status_code == 403


def test_another_page_may_link_to_us_and_nothing_else(browser: TestClient) -> None:
    followed = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert browser.get("/", headers=followed).status_code == 200
    assert browser.post("/", headers=followed).status_code == 403
    for dest in ("image", "script", "iframe"):
        assert browser.get("/", headers={**followed, "Sec-Fetch-Dest": dest}).status_code == 403


def test_whom_the_guard_admits_the_application_knows() -> None:
    with client_of(
        Guard(APPLICATION, "orchestration", SECRET, credentials={"authorization": "Basic own"})
    ) as client:
        client.get("/", params={"login": Sessions(SECRET).link("Ada")})
        assert client.get("/api").json() == {"subject": "Ada", "authorization": "Basic own"}


def test_the_health_answer_proves_who_it_is_and_needs_no_secret(client: TestClient) -> None:
    answer = client.get(HEALTH, params={"nonce": "n"}).json()
    assert answer == {
        "service": "orchestration",
        "proof": proof(SECRET, "orchestration", 4200, "n"),
    }
    assert answer["proof"] != proof(OTHER, "orchestration", 4200, "n")
    assert answer["proof"] != proof(SECRET, "console", 4200, "n")
    assert answer["proof"] != proof(SECRET, "orchestration", 4201, "n")
    assert SECRET.key not in str(answer)


def test_a_websocket_wants_the_same(client: TestClient) -> None:
    with (
        pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
        client.websocket_connect(SOCKET),
    ):
        pass
    with client.websocket_connect(SOCKET, headers=KEY) as opened:
        assert opened.receive_text()


def test_an_own_handshake_is_for_programs_only() -> None:
    with client_of(Guard(APPLICATION, "orchestration", SECRET, own_handshake=True)) as client:
        with client.websocket_connect(SOCKET) as opened:
            assert opened.receive_text() == "the application's own handshake"
        with (
            pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
            client.websocket_connect(SOCKET, headers={"Origin": HERE}),
        ):
            pass


def test_an_order_is_worth_nothing_for_another_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions, now = Sessions(SECRET), time.time()
    note = sessions.order("Ada", "rollback of digits")
    assert sessions.of_order(note, "rollback of digits") == "Ada"
    assert sessions.of_order(note, "rollback of minilm") is None
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + ORDER_S + 2)
    assert sessions.of_order(note, "rollback of digits") is None
    monkeypatch.undo()
    assert Sessions(OTHER).of_order(note, "rollback of digits") is None
    assert sessions.of_order(sessions.session("Ada"), "rollback of digits") is None


@pytest.fixture
def staffed(workspace: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the store an admin, whose token is returned; wrong tokens are answered at once."""
    monkeypatch.setattr("infra.access.attempts.DELAY_S", 0.0)
    token = users.add("ada", ["admin"]).token
    monkeypatch.setenv("REQUANT_TOKEN", token)
    settings.cache_clear()
    return token


def test_who_guesses_is_stopped_and_who_is_in_goes_on(staffed: str) -> None:
    guard = Guard(APPLICATION, "orchestration", SECRET, directory=settings().directory())
    with client_of(guard) as client:
        shown = {"Authorization": f"Bearer {staffed}"}
        assert client.get("/api", headers=shown).json()["subject"] == "ada"
        guesses = [f"rqt_{'0' * 12}_{number:064x}" for number in range(WRONG.amount)]
        answers = [
            client.get("/api", headers={"Authorization": f"Bearer {guess}"}) for guess in guesses
        ]
        assert {answer.status_code for answer in answers} == {401}
        users.add("bob", ["viewer"])
        fresh = {"Authorization": f"Bearer {users.issue('bob', 1).token}"}
        stopped = client.get("/api", headers=fresh)
        assert stopped.status_code == 429
        assert 0 < int(stopped.headers["retry-after"]) <= 300
        assert client.get("/api", headers=shown).status_code == 200
        assert client.get("/api", headers=KEY).status_code == 200
        client.headers["Origin"] = HERE
        assert client.post("/-/sign-in", data={"token": "rqt_x"}).status_code == 429
    noted = [entry for entry in users.log() if entry.kind == "locked-out"]
    assert len(noted) == 1
    assert "address testclient" in noted[0].details


def test_a_link_of_somebody_who_is_no_user_opens_nothing(staffed: str) -> None:
    guard = Guard(APPLICATION, "orchestration", SECRET, directory=settings().directory())
    with client_of(guard) as client:
        client.get("/", params={"login": Sessions(SECRET).link("eve")})
        assert client.get("/").status_code == 401
        client.get("/", params={"login": Sessions(SECRET).link("ada")})
        assert client.get("/").json()["subject"] == "ada"


def test_a_session_ends_with_its_token(staffed: str) -> None:
    users.add("bob", ["admin"])
    issued = users.issue("bob", 1)
    guard = Guard(APPLICATION, "orchestration", SECRET, directory=settings().directory())
    with client_of(guard) as client:
        client.headers["Origin"] = HERE
        assert client.post("/-/sign-in", data={"token": issued.token}).status_code == 303
        assert client.get("/").status_code == 200
        users.revoke("bob", issued.token_id)
        assert client.get("/").status_code == 401
