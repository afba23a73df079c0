"""A champion that fails while it bakes loses its traffic at once, and the one before comes back."""

from __future__ import annotations

import numpy as np
import pytest

from flows.gateway.steering.deliverer import Deliverer
from flows.gateway.steering.opening import OpenReleases
from infra.gateway.batching import DynamicBatcher
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.steering.destination import Asking
from infra.settings import Settings
from tasks.promotion import journal, ledger
from tasks.promotion.acts.promoting import promote
from tasks.promotion.serving.deliveries import deliveries, started
from tasks.promotion.serving.deliveries import stepped as next_step
from tasks.records import ReleaseRef
from tests.integration.gateways import spoilt, write_example
from tests.integration.releases import released

DELIVERY = {"canary": [0.5], "step_s": 0.0, "bake_s": 1000.0}


@pytest.fixture
def first(registry_workspace: Settings) -> ReleaseRef:
    """Register digits with one champion."""
    from tasks.models.catalog import register

    path = write_example(
        registry_workspace.root / "source", "digits", serving={"delivery": DELIVERY}
    )
    plan = bytes(register(path).graph.SerializeToString())
    release = released(registry_workspace, 0.0, "digits", plan=plan)
    promote(release, None, "tester", "it passed")
    return release


def test_it_is_rolled_back_and_its_base_answers_meanwhile(
    registry_workspace: Settings, first: ReleaseRef
) -> None:
    releases = OpenReleases(registry_workspace)
    registered = releases.registered("digits")
    second = released(registry_workspace, 0.0, "digits", plan=spoilt(registered.graph, 0.01))
    journal.commit("digits", started, second, first.version, [0.0], "tester", "it passed")
    (delivery,) = deliveries(journal.read("digits"))
    journal.commit("digits", next_step, delivery, "all well")
    metrics = GatewayMetrics()
    endpoint = Endpoint("digits", DynamicBatcher("digits", metrics), metrics)
    entry = ledger.champion(journal.read("digits"))
    assert entry is not None
    serving = releases.release(registered, entry)
    endpoint.publish(serving)
    deliverer = Deliverer(endpoint, releases)
    deliverer.look()  # all traffic is due: it becomes champion, and bakes
    assert ledger.champion(journal.read("digits")).version == second.version  # type: ignore[union-attr]
    trial = endpoint.steering.trial
    assert trial is not None
    assert not trial.share
    trial.observer.notes.add("fidelity", *np.full(600, 0.1).tolist())  # type: ignore[attr-defined]
    seen: list[str] = []
    act = deliverer._act

    def noted(*arguments: str) -> None:
        asked = endpoint.steering.destination(trial.candidate, Asking({}), 1)
        seen.append(asked.release.version)
        act(*arguments)

    deliverer._act = noted  # type: ignore[method-assign]
    deliverer.look()
    assert seen == [first.version]
    assert ledger.champion(journal.read("digits")).version == first.version  # type: ignore[union-attr]
    (ended,) = deliveries(journal.read("digits"))
    assert ended.outcome == "aborted"
    assert "baking" in ended.reason
    deliverer.look()
    assert endpoint.steering.instead is None
