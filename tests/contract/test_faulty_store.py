"""A ledger over a store behind a proxy that fails, stalls, drops, truncates or repeats requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from benchmarks.chaos.proxy import FAULTS, NONE, Proxy, Strike
from infra.errors import Unavailable
from infra.settings import Settings, settings
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body
from tests.contract.conftest import S3Server


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
    proxy.strike(Strike(fault, times, method=method))
    try:
        journal.commit("m", decided, "second")
        told = False
    except Unavailable:
        told = True
    proxy.strike(NONE)
    reasons = [entry.reason for entry in journal.read("m")]
    assert reasons.count("first") == 1
    assert reasons.count("second") <= 1
    assert told or reasons == ["first", "second"]
    journal.commit("m", decided, "third")
    assert journal.read("m")[-1].reason == "third"
    assert list(journal.faults("m")) == []
