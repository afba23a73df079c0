from __future__ import annotations

import pytest

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
