"""What stands by for an adapter follows the ledger of the model below it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from flows.gateway.steering.guardian import Guardian
from flows.gateway.steering.opening import REFERENCE
from flows.gateway.steering.tiers import Tiers
from infra.errors import Tampered
from infra.gateway.batching import DynamicBatcher
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.wire.signature import GraphSignature
from infra.identifiers import Digest, ModelName
from infra.settings import Settings
from tasks.promotion import entries, journal
from tasks.promotion.ledger import LedgerEntry
from tasks.records import GoldenSet, ReleaseRef
from tasks.specs.serving import FallbackSpec, ServingSpec
from tasks.specs.spec import Task

NOTHING: Any = None
SPEC = SimpleNamespace(
    serving=ServingSpec(fallback=FallbackSpec(to="core", errors=0.05)),
    adapter=SimpleNamespace(core="core"),
    task=Task.CAUSAL_LM,
    outputs=("logits",),
)
ADAPTED: Any = SimpleNamespace(
    name="adapted",
    spec=SPEC,
    inputs=SimpleNamespace(output="logits"),
    golden=GoldenSet((), Digest("g")),
)
DAMAGED = "3" * 64


class FakeReleases:
    """Opens a release of any name, but for the damaged one."""

    def registered(self, model: str) -> Any:
        return SimpleNamespace(name=model)

    def release(self, registered: Any, entry: LedgerEntry) -> ServedRelease:
        if entry.release == DAMAGED:
            raise Tampered("a file differs")
        return served(registered.name, str(entry.version), str(entry.release))

    def reference(self, registered: Any) -> ServedRelease:
        return served(registered.name, REFERENCE, "0" * 64)


def served(model: str, version: str, digest: str) -> ServedRelease:
    signature = GraphSignature((), (), False)
    return ServedRelease(model, version, digest, "t", NOTHING, signature, NOTHING)


def reign(version: str) -> None:
    """Make a version of the core its champion."""
    release = ReleaseRef(ModelName("core"), version, Digest(version * 64))
    base = str(int(version) - 1) if version > "1" else None
    journal.commit("core", entries.promoted, release, base, lambda: None, "tester", "it passed")


def test_full_precision_stands_by_until_the_core_has_a_champion_then_each_of_them(
    workspace: Settings,
) -> None:
    metrics = GatewayMetrics()
    endpoint = Endpoint("adapted", DynamicBatcher("adapted", metrics), metrics)
    fake: Any = FakeReleases()
    tiers = Tiers(endpoint, Guardian(endpoint), fake)

    def standing() -> tuple[str, str]:
        tiers.follow_core()
        fallback = endpoint.steering.fallback
        assert fallback is not None
        return fallback.model, fallback.version

    tiers.open(ADAPTED, served("adapted", "1", "a" * 64), ())
    assert standing() == ("adapted", REFERENCE)
    reign("1")
    assert standing() == ("core", "1")
    reign("2")
    assert standing() == ("core", "2")
    reign("3")
    assert standing() == ("core", "2"), "what does not verify stands by for nobody"


def test_full_precision_stands_by_where_no_champion_before_this_one_can(
    workspace: Settings,
) -> None:
    spec = SimpleNamespace(
        **vars(SPEC) | {"serving": ServingSpec(fallback=FallbackSpec(to="previous", errors=0.05))}
    )
    registered: Any = SimpleNamespace(**vars(ADAPTED) | {"name": "core", "spec": spec})
    metrics = GatewayMetrics()
    endpoint = Endpoint("core", DynamicBatcher("core", metrics), metrics)
    fake: Any = FakeReleases()
    tiers = Tiers(endpoint, Guardian(endpoint), fake)

    def standing() -> str:
        history = journal.read("core")
        head = history[-1]
        tiers.open(registered, served("core", str(head.version), str(head.release)), history)
        assert endpoint.steering.observer is not None
        assert endpoint.steering.fallback is not None
        return endpoint.steering.fallback.version

    reign("1")
    assert standing() == REFERENCE
    reign("2")
    assert standing() == "1"
    reign("3")  # which is damaged
    reign("4")
    assert standing() == REFERENCE
