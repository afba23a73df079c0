"""A champion whose live answers break a limit loses its traffic, until another one reigns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.acts.promoting import promote
from tasks.promotion.ledger import EntryKind
from tests.integration.gateways import Served, serving_itself, spoilt, until
from tests.integration.releases import released

FALLBACK = {
    "latency_ms": 2000,
    "errors": 0.05,
    "fidelity": 0.9,
    "shadow": 1.0,
    "back_after_s": 2.0,
}


@pytest.fixture(scope="module")
def served(shared_workspace: Settings, empty_registry: Path) -> Iterator[Served]:
    """Serve digits with a champion that is full precision itself."""
    with serving_itself(shared_workspace, empty_registry, {"fallback": FALLBACK}) as served:
        yield served


def ask(served: Served, count: int) -> list[str]:
    """Return what routed each of some golden images."""
    from tasks.models.catalog import open_model

    routed = []
    for case in open_model("digits").golden.cases[:count]:
        image = np.asarray(case.payload, np.float32)[None]
        answer = served.infer("digits", "image", image)
        assert answer.status_code == 200, answer.text
        routed.append(answer.json()["parameters"].get("routed", ""))
    return routed


def test_a_healthy_champion_keeps_its_traffic(served: Served) -> None:
    assert set(ask(served, 150)) == {""}
    alike, compared = fidelity(served)
    assert compared > 0
    assert alike == pytest.approx(compared)


def fidelity(served: Served) -> tuple[float, float]:
    """Return the sum, and of how many answers."""
    series = 'requant_gateway_tier_fidelity_{}{{model="digits",tier="routine"}}'
    return served.metric(series.format("sum")), served.metric(series.format("count"))


def test_a_champion_that_answers_otherwise_than_full_precision_loses_its_traffic_at_once(
    served: Served,
) -> None:
    from tasks.models.catalog import open_model

    plan = spoilt(open_model("digits").graph, 3.0)
    release = released(served.settings, 0.0, "digits", plan=plan)
    promote(release, served.version("digits"), "tester", "it passed")
    until(lambda: served.version("digits") == release.version)
    began = time.monotonic()
    until(lambda: "fallback" in ask(served, 10))
    assert time.monotonic() - began < 10.0
    assert set(ask(served, 5)) == {"fallback"}
    until(lambda: journal.read("digits")[-1].kind is EntryKind.FELL_BACK)
    entry = journal.read("digits")[-1]
    assert entry.actor == "gateway"
    assert "fidelity" in entry.reason
    alike, compared = fidelity(served)
    assert alike < compared - 1
    assert served.metric('requant_gateway_fallen_back{model="digits"}') == 1.0
    time.sleep(2.5)  # its time is over, and the probes say that nothing is better
    assert set(ask(served, 60)) == {"fallback"}


def test_status_tells_who_answers_and_why(served: Served) -> None:
    from flows.queries.views import one_model

    told = one_model("digits").serving
    assert told is not None
    assert told.startswith("full-precision answers since")


def test_another_champion_gets_its_traffic(served: Served) -> None:
    from tasks.models.catalog import open_model

    plan = spoilt(open_model("digits").graph, 0.01)
    release = released(served.settings, 0.0, "digits", plan=plan)
    promote(release, served.version("digits"), "tester", "it passed")
    until(lambda: served.version("digits") == release.version)
    assert set(ask(served, 60)) == {""}
    assert served.metric('requant_gateway_fallen_back{model="digits"}') == 0.0
