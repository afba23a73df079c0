"""A model's page says which tier answers how much of its traffic, or why that is not known."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from flows.queries.console import tiers
from flows.queries.console.asking import Asked
from flows.queries.console.tiers import TierShare, shares
from infra.errors import BadInput
from infra.gateway.metrics import GatewayMetrics


def answered() -> str:
    """Return the metrics of a gateway that answered four times."""
    metrics = GatewayMetrics()
    for tier, why in (("routine", ""), ("routine", ""), ("routine", ""), ("reference", "unsure")):
        metrics.steered("tiny", tier, why, 0.01)
    return metrics.exposition().decode()


def test_shares_are_of_each_models_answers_whatever_sent_them_there() -> None:
    wanted = (TierShare("routine", 3, 0.75), TierShare("reference", 1, 0.25))
    assert shares(answered()) == {"tiny": wanted}
    assert shares("") == {}
    with pytest.raises(BadInput, match="cannot be read"):
        shares("requant_gateway_tier_seconds_count{model= 1")


def test_the_page_and_its_twin_show_them_and_say_what_is_not_known(
    browser: TestClient, console: FastAPI
) -> None:
    assert "no gateway runs beside this console" in browser.get("/models/tiny").text
    console.state.tiers = Asked(lambda: shares(answered()))
    assert "<b>routine</b> 75 % (3)" in browser.get("/models/tiny").text
    assert browser.get("/api/models/tiny/tiers").json()["tiers"][1]["tier"] == "reference"
    assert browser.get("/api/models/nobody/tiers").status_code == 404


def test_a_gateway_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    away = {"gateway": "http://127.0.0.1:9"}
    monkeypatch.setattr(tiers, "noted_addresses", lambda _: away)
    assert "the gateway did not say" in str(Asked(tiers.counted_tiers).answer().problem)
