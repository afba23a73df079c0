"""Signing in by an OpenID Connect provider, against one that runs beside the test."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from oidc_provider_mock import User, run_server_in_thread
from starlette.testclient import TestClient

from flows.commands.access import users
from infra.access.guard import Guard
from infra.access.oidc import Provider
from infra.access.sessions import OIDC_S, Sessions
from infra.errors import BadInput
from infra.settings import Settings, settings
from tests.unit.infra.test_guard import APPLICATION, HERE, SECRET

FROM_THERE = {
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    known = [
        User(sub="ada-1", claims={"email": "ada@example.org", "email_verified": True}),
        User(sub="eve-1", claims={"email": "ada@example.org", "email_verified": False}),
    ]
    with run_server_in_thread(user_claims=known) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
def staffed(workspace: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    admin = users.add("ada", ["admin"], oidc="ada-1")
    monkeypatch.setenv("REQUANT_TOKEN", admin.token)
    settings.cache_clear()
    return settings()


def browser_of(issuer: str, claim: str = "sub") -> TestClient:
    provider = Provider(issuer, "requant", "a secret", claim)
    guard = Guard(APPLICATION, "console", SECRET, directory=settings().directory(), oidc=provider)
    return TestClient(guard, base_url=HERE, follow_redirects=False)


def come_back(browser: TestClient, who: str) -> httpx.Response:
    """Sign in at the provider as somebody, and follow it back."""
    there = browser.get("/-/oidc/sign-in").headers["location"]
    asked = parse_qs(urlsplit(there).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["nonce"]
    assert asked["redirect_uri"] == [f"{HERE}/-/oidc/callback"]
    led = httpx.post(there, data={"sub": who})
    return browser.get(led.headers["location"], headers=FROM_THERE)


def test_a_user_signs_in_by_the_provider_and_keeps_their_roles(
    staffed: Settings, issuer: str
) -> None:
    with browser_of(issuer) as browser:
        page = browser.get("/", headers={"Accept": "text/html"})
        assert "/-/oidc/sign-in" in page.text
        answer = come_back(browser, "ada-1")
        assert answer.status_code == 200
        assert 'http-equiv="refresh"' in answer.text  # a page of ours leads on, with the cookie
        assert browser.get("/").json()["subject"] == "ada"
        signed = [entry for entry in users.log() if entry.kind == "signed-in"]
        assert "by oidc" in signed[0].details


def test_who_is_no_user_is_refused_and_noted(staffed: Settings, issuer: str) -> None:
    with browser_of(issuer) as browser:
        answer = come_back(browser, "mallory")
        assert answer.status_code == 403
        assert "mallory is no user here" in answer.text
        assert browser.get("/").status_code == 401
    assert "mallory" in {entry.actor for entry in users.log() if entry.kind == "refused"}


def test_an_address_that_the_provider_has_not_verified_is_nobody(
    staffed: Settings, issuer: str
) -> None:
    users.add("ada", ["admin"], oidc="ada@example.org")
    with browser_of(issuer, "email") as browser:
        assert come_back(browser, "eve-1").status_code == 403
        assert come_back(browser, "ada-1").status_code == 200


def test_an_answer_that_was_not_asked_for_lets_nobody_in(staffed: Settings, issuer: str) -> None:
    with browser_of(issuer) as browser, browser_of(issuer) as other:
        there = other.get("/-/oidc/sign-in").headers["location"]
        led = httpx.post(there, data={"sub": "ada-1"}).headers["location"]
        answer = browser.get(led, headers=FROM_THERE)  # a login that somebody else began (CSRF)
        assert answer.status_code == 401
        assert browser.get("/").status_code == 401
        assert other.get(led, headers=FROM_THERE).status_code == 200
        assert other.get(led, headers=FROM_THERE).status_code == 401  # a code counts once


def test_a_revoked_user_and_an_old_session_are_out(
    staffed: Settings, issuer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    users.add("bob", ["admin"], oidc="bob-1")
    with browser_of(issuer) as browser:
        come_back(browser, "bob-1")
        assert browser.get("/").status_code == 200
        session = Sessions(SECRET).of_session(dict(browser.cookies)[Sessions(SECRET).cookie])
        assert session is not None
        directory = settings().directory()
        monkeypatch.setattr("infra.access.directory.time.time", lambda: session.opened + OIDC_S + 1)
        assert not directory.admits(session)
        monkeypatch.undo()
        users.revoke("bob")
        assert not directory.admits(session)


@pytest.mark.parametrize("name", ["X-Forwarded-Host", "Forwarded", "X-Original-Host"])
def test_no_header_of_a_proxy_says_where_the_provider_leads_back(
    staffed: Settings, issuer: str, name: str
) -> None:
    value = "host=evil.example" if name == "Forwarded" else "evil.example"
    with browser_of(issuer) as browser:
        there = browser.get("/-/oidc/sign-in", headers={name: value}).headers["location"]
        assert parse_qs(urlsplit(there).query)["redirect_uri"] == [f"{HERE}/-/oidc/callback"]


def test_under_another_name_of_the_console_nobody_is_led_to_the_provider(
    staffed: Settings, issuer: str
) -> None:
    with browser_of(issuer) as browser:
        answer = browser.get("/-/oidc/sign-in", headers={"Host": "requant.example.org"})
        assert answer.status_code == 421
        assert "location" not in answer.headers


def test_a_provider_elsewhere_is_not_asked_in_the_clear() -> None:
    with pytest.raises(BadInput, match="https"):
        Provider("http://sso.example.org", "requant", "s", "sub")


def test_a_provider_that_does_not_answer_is_said(staffed: Settings) -> None:
    with browser_of("http://127.0.0.1:9") as browser:
        answer = browser.get("/-/oidc/sign-in")
        assert answer.status_code == 503
        assert "did not answer" in answer.text
