"""The gateway with users: every route is in the table, and a model answers its viewers."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from flows.commands.access import users
from flows.gateway.application import ROLES, ServedModels, role_of
from infra.access.directory import CURRENT, Caller
from infra.access.guard import Guard
from infra.access.roles import ANY, EVERY, Role, parse_grant
from infra.access.secret import WorkspaceSecret
from infra.gateway.over_grpc.server import GrpcServer, _Locked, _NoKey, _refusal
from infra.settings import Settings, settings
from tests.unit.infra.gateway.test_application import BODY, gateway

SECRET = WorkspaceSecret(b"a secret only for these tests...")


def test_every_route_of_the_gateway_is_in_the_table(workspace: Settings) -> None:
    application = ServedModels(workspace).routed()
    routes = {
        f"{method} {route.path}"
        for route in application.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert routes == set(ROLES)


def test_figures_of_all_models_are_for_viewers_of_all() -> None:
    assert role_of("GET", "/metrics") == (Role.VIEWER, EVERY)
    assert role_of("POST", "/v2/models/m/infer") == (Role.VIEWER, ANY)


@pytest.mark.parametrize(("grant", "status"), [("viewer:m", 200), ("viewer:other", 403)])
def test_a_model_answers_its_viewers_only(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch, grant: str, status: int
) -> None:
    monkeypatch.setenv("REQUANT_TOKEN", users.add("ada", ["admin"]).token)
    settings.cache_clear()
    users.add("vic", [grant])
    token = users.issue("vic", 1).token
    served = gateway().application()
    guard = Guard(served, "gateway", SECRET, directory=settings().directory(), role_of=role_of)
    shown = {"Authorization": f"Bearer {token}"}
    with TestClient(guard, base_url="http://127.0.0.1:8500", headers=shown) as client:
        assert client.post("/v2/models/m/infer", json=BODY).status_code == status
        index = client.post("/v2/repository/index").json()
        assert [model["name"] for model in index] == (["m"] if status == 200 else [])
        assert client.get("/metrics").status_code == 403


def test_a_call_over_grpc_shows_the_key_or_a_token(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUANT_TOKEN", users.add("ada", ["admin"]).token)
    monkeypatch.setattr("infra.access.attempts.DELAY_S", 0.0)
    settings.cache_clear()
    users.add("vic", ["viewer:other"])
    token = users.issue("vic", 1).token

    async def admitted(shown: str) -> Caller | None:
        server = GrpcServer(gateway(), SECRET.key, "0", directory=settings().directory())
        await server._admit({"authorization": shown}, "ipv4:127.0.0.1:1", "ServerLive")
        return CURRENT.get()

    assert asyncio.run(admitted(f"Bearer {SECRET.key}")) is None
    assert asyncio.run(admitted(f"Bearer {token}")) == Caller("vic", (parse_grant("viewer:other"),))
    for shown in ("", token, "Bearer wrong", f"Bearer {token[:-1]}g"):  # no hex digit
        with pytest.raises(_NoKey):
            asyncio.run(admitted(shown))


def test_whoever_guesses_over_grpc_is_told_to_wait(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUANT_TOKEN", users.add("ada", ["admin"]).token)
    monkeypatch.setattr("infra.access.attempts.DELAY_S", 0.0)
    settings.cache_clear()

    async def guessed() -> None:
        server = GrpcServer(gateway(), SECRET.key, "0", directory=settings().directory())
        for place in range(50):
            with suppress(_NoKey):
                shown = {"authorization": f"Bearer {place}"}
                await server._admit(shown, "ipv4:127.0.0.1:1", "ServerLive")

    with pytest.raises(_Locked) as told:
        asyncio.run(guessed())
    refusal = _refusal(told.value)
    assert (refusal.code, refusal.status) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 429)
    assert int(dict(refusal.trailing)["retry-after"]) >= 1
