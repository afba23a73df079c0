from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from infra.canonical import Json
from infra.errors import Refused
from infra.identifiers import Digest, ModelName
from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body
from tasks.promotion.serving import deliveries
from tasks.records import ReleaseRef

CANDIDATE = ReleaseRef(ModelName("m"), "2", Digest("b" * 64))


def reign(version: str) -> None:
    journal.commit(
        "m",
        lambda _: body(
            EntryKind.PROMOTED, actor="a", reason="r", version=version, release=version * 64
        ),
    )


def start(base: str | None = "1") -> None:
    journal.commit("m", deliveries.started, CANDIDATE, base, [0.0, 0.05, 0.5], "a", "it passed")


def test_a_delivery_goes_step_by_step_and_each_once(workspace: Settings) -> None:
    reign("1")
    start()
    first = deliveries.open_delivery(journal.read("m"))
    assert first is not None
    assert (first.stage, first.share, first.baking) == ("shadow", 0.0, False)
    for _ in range(2):  # another replica came to the same verdict
        journal.commit("m", deliveries.stepped, first, "all well")
    second = deliveries.open_delivery(journal.read("m"))
    assert second is not None
    assert (second.stage, second.step) == ("canary of 5%", 1)
    journal.commit("m", deliveries.stepped, second, "all well")
    third = deliveries.open_delivery(journal.read("m"))
    assert third is not None
    journal.commit("m", deliveries.stepped, third, "all well")
    baking = deliveries.open_delivery(journal.read("m"))
    assert baking is not None
    assert (baking.stage, baking.share) == ("baking", 1.0)
    journal.commit("m", deliveries.ended, baking, deliveries.COMPLETED, "well")
    assert deliveries.open_delivery(journal.read("m")) is None


def test_an_aborted_delivery_goes_no_further(workspace: Settings) -> None:
    reign("1")
    start()
    delivery = deliveries.open_delivery(journal.read("m"))
    assert delivery is not None
    journal.commit("m", deliveries.ended, delivery, deliveries.ABORTED, "worse")
    assert journal.commit("m", deliveries.stepped, delivery, "all well") is None
    (ended,) = deliveries.deliveries(journal.read("m"))
    assert (ended.outcome, ended.reason) == ("aborted", "worse")


def test_only_one_at_a_time_and_only_against_the_champion_that_it_was_judged_by(
    workspace: Settings,
) -> None:
    with pytest.raises(Refused, match="no champion to take traffic over from"):
        start(None)
    reign("1")
    with pytest.raises(Refused, match="judged against version 7"):
        start("7")
    start()
    with pytest.raises(Refused, match="is being delivered"):
        start()


def act(kind: EntryKind, version: str, actor: str = "ann") -> None:
    def entry(_: Any) -> Mapping[str, Json]:
        return body(kind, actor=actor, reason="I say so", version=version, release=version * 64)

    journal.commit("m", entry)


def overtaken() -> tuple[str, str] | None:
    delivery = deliveries.open_delivery(journal.read("m"))
    assert delivery is not None
    return deliveries.overtaken(journal.read("m"), delivery)


def brought_to_baking() -> None:
    for _ in range(3):
        delivery = deliveries.open_delivery(journal.read("m"))
        assert delivery is not None
        journal.commit("m", deliveries.stepped, delivery, "all well")


def test_a_no_to_the_candidate_ends_its_delivery_and_an_earlier_one_does_not(
    workspace: Settings,
) -> None:
    act(EntryKind.PROMOTED, "1")
    act(EntryKind.REJECTED, "2")
    start()
    assert overtaken() is None
    act(EntryKind.REJECTED, "2")
    assert overtaken() == ("aborted", "ann rejected it: I say so")


def test_another_champion_supersedes_it(workspace: Settings) -> None:
    act(EntryKind.PROMOTED, "7")
    act(EntryKind.PROMOTED, "1")
    start()
    act(EntryKind.ROLLED_BACK, "7")
    assert overtaken() == ("superseded", "another version became champion meanwhile")


@pytest.mark.parametrize(("actor", "outcome"), [("ann", "superseded"), ("gateway", "aborted")])
def test_what_was_rolled_back_while_it_baked_is_not_promoted_again(
    workspace: Settings, actor: str, outcome: str
) -> None:
    act(EntryKind.PROMOTED, "0")
    act(EntryKind.ROLLED_BACK, "1")  # a rollback before it says nothing of it
    start()
    brought_to_baking()
    assert overtaken() is None, "it is due, and not champion yet"
    act(EntryKind.PROMOTED, "2", "gateway")
    assert overtaken() is None
    act(EntryKind.ROLLED_BACK, "1", actor)
    assert overtaken() == (outcome, f"{actor} rolled it back: I say so")
