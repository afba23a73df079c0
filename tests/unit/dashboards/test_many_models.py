"""A hundred models on one page: found by name and state, in the order that was asked for."""

import re
import time

import pytest
from fastapi.testclient import TestClient

from benchmarks.orchestration.console import named_spec
from infra.canonical import canonical
from infra.settings import Settings
from infra.stores import layout
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body

MODELS = 100
DEGRADED, WAITING = 9, 10
"""Every ninth model is degraded, and in every tenth a candidate waits."""
PAGE_S = 0.15
"""CPU seconds of the page once ledgers and specs were read."""


def named(number: int) -> str:
    return f"model-{number:03}"


@pytest.fixture
def many(known: Settings) -> Settings:
    """Register them, each with a decision of its own."""
    store = known.store()
    for number in range(MODELS):
        name, digest = named(number), f"{number:064x}"
        spec = named_spec(name).encode()
        store.put(layout.registration_file(name, digest, "spec.yaml"), spec)
        store.put(layout.registration_in_use(name), canonical({"version": 1, "digest": digest}))
        health = "degraded" if number % DEGRADED == 0 else "fine"
        details = {"window": "w" * 64, "action": "keep", "lenses": {"input": health}}
        chain = journal.open_journal(name).chain
        chain.append(body(EntryKind.DECIDED, actor="schedule", reason="seen", details=details))
        if number % WAITING == 0:
            asked = body(
                EntryKind.APPROVAL_REQUESTED,
                actor="schedule",
                reason="look at it",
                version="2",
                release="r" * 64,
            )
            chain.append(asked, expect=1)
    return known


def names(browser: TestClient, **asked: str) -> list[str]:
    """Return the models of the page, in its order; its twin has to say the same."""
    page = browser.get("/", params=asked)
    assert page.status_code == 200
    shown = re.findall(r'class="name" href="/models/([^"]+)"', page.text)
    twin = browser.get("/api/models", params=asked).json()
    assert [row["name"] for row in twin["models"]] == shown
    assert twin["registered"] == MODELS + 1
    return [name for name in shown if name != "tiny"]


def test_a_hundred_models_are_searched_filtered_and_sorted(
    many: Settings, browser: TestClient
) -> None:
    everyone = [named(number) for number in range(MODELS)]
    degraded = [name for name in everyone if int(name[-3:]) % DEGRADED == 0]
    waiting = [name for name in everyone if int(name[-3:]) % WAITING == 0]
    assert names(browser) == everyone
    assert names(browser, q="-09") == everyone[90:]
    assert names(browser, q="MODEL-042") == ["model-042"]
    assert names(browser, state="degraded") == degraded
    assert names(browser, state="degraded", q="-0") == degraded
    assert names(browser, state="waiting") == waiting
    assert names(browser, sort="health") == [
        *degraded,
        *(name for name in everyone if name not in degraded),
    ]
    assert names(browser, q="nobody") == []
    took = min(timed(browser) for _ in range(3))
    assert took < PAGE_S


def timed(browser: TestClient) -> float:
    began = time.process_time()
    browser.get("/").raise_for_status()
    return time.process_time() - began
