"""What a delivery does where its candidate cannot be opened, and after it failed while it baked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flows.gateway.follower import Follower
from flows.gateway.steering import deliverer as module
from flows.gateway.steering.deliverer import Deliverer
from infra.errors import Unavailable
from infra.gateway.batching import DynamicBatcher
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.steering.destination import Asking
from infra.gateway.wire.signature import GraphSignature
from infra.identifiers import Digest, ModelName
from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, LedgerEntry, body
from tasks.promotion.serving.deliveries import Delivery, deliveries, started
from tasks.promotion.serving.deliveries import stepped as next_step
from tasks.records import GoldenSet, ReleaseRef
from tasks.serving.objectives import ERRORS
from tasks.specs.serving import DeliverySpec, ServingSpec
from tasks.specs.spec import Task

NOTHING: Any = None
REGISTERED: Any = SimpleNamespace(
    name="m",
    spec=SimpleNamespace(
        serving=ServingSpec(delivery=DeliverySpec(step_s=0.0)),
        task=Task.CAUSAL_LM,
        outputs=("logits",),
    ),
    inputs=SimpleNamespace(output="logits"),
    golden=GoldenSet((), Digest("g")),
)


def release(version: str) -> ServedRelease:
    signature = GraphSignature((), (), False)
    return ServedRelease("m", version, version * 64, "t", NOTHING, signature, NOTHING)


BASE, CANDIDATE = release("1"), release("2")


class FakeReleases:
    """Opens both releases, or not the candidate."""

    def __init__(self, *, opens: bool = True) -> None:
        self.opens = opens

    def registered(self, model: str) -> Any:
        return REGISTERED

    def release(self, registered: Any, entry: LedgerEntry) -> ServedRelease:
        if entry.version == CANDIDATE.version and not self.opens:
            raise Unavailable("none of its engines runs here")
        return BASE if entry.version == BASE.version else CANDIDATE


def reign(kind: EntryKind, served: ServedRelease, actor: str = "gateway") -> None:
    journal.commit(
        "m",
        lambda _: body(
            kind, actor=actor, reason="r", version=served.version, release=served.digest
        ),
    )


def begun(*, steps: int = 0) -> None:
    """Begin the delivery of version 2 over version 1, and bring it so many steps forward."""
    reign(EntryKind.PROMOTED, BASE, "tester")
    named = ReleaseRef(ModelName("m"), CANDIDATE.version, Digest(CANDIDATE.digest))
    journal.commit("m", started, named, BASE.version, [0.5], "tester", "it passed")
    for _ in range(steps):
        journal.commit("m", next_step, newest(), "all well")


def newest() -> Delivery:
    return deliveries(journal.read("m"))[-1]


def watching(releases: FakeReleases, answers: ServedRelease = BASE) -> tuple[Endpoint, Deliverer]:
    metrics, fake = GatewayMetrics(), releases
    endpoint = Endpoint("m", DynamicBatcher("m", metrics), metrics, release=answers)
    opened: Any = fake
    deliverer = Deliverer(endpoint, opened)

    def acted(act: str, *_: str) -> None:
        kinds = {"promote": EntryKind.PROMOTED, "roll-back": EntryKind.ROLLED_BACK}
        reign(kinds[act], CANDIDATE if act == "promote" else BASE)

    deliverer._act = acted  # type: ignore[method-assign]  # the registry's part of it
    return endpoint, deliverer


def test_a_candidate_that_never_opens_is_waited_for_a_while_and_given_up(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun()
    endpoint, deliverer = watching(FakeReleases(opens=False))
    with pytest.raises(Unavailable):
        deliverer.look()
    assert newest().outcome is None
    monkeypatch.setattr(module, "OPEN_S", 0.0)
    deliverer.look()
    assert newest().outcome == "aborted"
    assert "none of its engines runs here" in newest().reason
    assert endpoint.steering.trial is None


@pytest.mark.parametrize("promoted", [False, True])
def test_one_that_does_not_open_when_it_is_to_bake_is_no_champion(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch, promoted: bool
) -> None:
    begun(steps=1)
    if promoted:  # before the gateway was started again
        reign(EntryKind.PROMOTED, CANDIDATE)
    monkeypatch.setattr(module, "OPEN_S", 0.0)
    watching(FakeReleases(opens=False))[1].look()
    reigns = [entry for entry in journal.read("m") if entry.kind in REIGNS]
    assert reigns[-1].version == BASE.version
    assert newest().outcome == "aborted"


REIGNS = (EntryKind.PROMOTED, EntryKind.ROLLED_BACK)


def test_what_failed_while_it_baked_answers_nobody_until_the_rollback_arrives(
    workspace: Settings,
) -> None:
    begun(steps=1)
    endpoint, deliverer = watching(FakeReleases())
    deliverer.look()
    endpoint.publish(CANDIDATE)
    trial: Any = endpoint.steering.trial
    trial.observer.notes.add(ERRORS, *[0.0] * 200)
    deliverer.look()
    assert newest().outcome == "aborted"
    for _ in range(2):  # the ledger's head is not served yet
        deliverer.look()
        asked = endpoint.steering.destination(CANDIDATE, Asking({}), 1)
        assert asked.release is BASE
    endpoint.publish(BASE)
    deliverer.look()
    assert endpoint.steering.instead is None


def test_a_gateway_that_starts_again_does_not_promote_what_a_person_rolled_back(
    workspace: Settings,
) -> None:
    begun(steps=1)
    reign(EntryKind.PROMOTED, CANDIDATE)
    reign(EntryKind.ROLLED_BACK, BASE, "ann")
    watching(FakeReleases())[1].look()
    assert newest().outcome == "superseded"
    assert [entry.version for entry in journal.read("m") if entry.kind in REIGNS][-1] == "1"


class Away:
    """A ledger that cannot be reached."""

    def read(self) -> tuple[LedgerEntry, ...]:
        raise Unavailable("the store does not answer")


def test_while_the_ledger_is_away_shares_stay_and_the_alert_is_on(workspace: Settings) -> None:
    begun()
    endpoint, deliverer = watching(FakeReleases())
    opened: Any = FakeReleases()
    follower, away = Follower(endpoint, opened), Away()
    follower.look()
    deliverer.look()
    trial = endpoint.steering.trial
    assert trial is not None

    def refused() -> bool:
        line = b'requant_gateway_head_refused{model="m"} 1.0'
        return line in endpoint.metrics.exposition()

    ledgers = follower._journal, deliverer._journal
    follower._journal = deliverer._journal = away  # type: ignore[assignment]
    follower.look()
    with pytest.raises(Unavailable):
        deliverer.look()
    assert endpoint.steering.trial is trial
    assert endpoint.release is BASE
    assert refused()
    follower._journal, deliverer._journal = ledgers
    reign(EntryKind.PROMOTED, CANDIDATE, "ann")
    follower.look()  # at once: nothing was tried in vain
    assert endpoint.release is CANDIDATE
    assert not refused()
    deliverer.look()
    assert newest().outcome == "superseded"


def test_a_champion_that_cannot_be_opened_does_not_delay_the_next(workspace: Settings) -> None:
    begun()
    endpoint, _ = watching(FakeReleases())
    opened: Any = FakeReleases(opens=False)
    follower = Follower(endpoint, opened)
    reign(EntryKind.PROMOTED, CANDIDATE)
    for _ in range(2):
        follower.look()
        assert endpoint.release is BASE
        assert "none of its engines runs here" in endpoint.reason
    opened.opens = True
    follower.look()
    assert endpoint.release is BASE, "the same one is tried again after a while"
    reign(EntryKind.PROMOTED, release("3"))
    follower.look()
    assert endpoint.release is CANDIDATE, "what these releases open for any other version"


def test_two_gateways_come_to_one_champion(workspace: Settings) -> None:
    begun(steps=1)
    first, second = (watching(FakeReleases()) for _ in range(2))
    for _, deliverer in (first, second):
        deliverer.look()
    assert [entry.version for entry in journal.read("m") if entry.kind in REIGNS] == ["1", "2"]
    for endpoint, _ in (first, second):
        endpoint.publish(CANDIDATE)
        trial: Any = endpoint.steering.trial
        trial.observer.notes.add(ERRORS, *[0.0] * 200)
    for _, deliverer in (first, second):
        deliverer.look()
    assert newest().outcome == "aborted"
    assert [entry.version for entry in journal.read("m") if entry.kind in REIGNS] == ["1", "2", "1"]
