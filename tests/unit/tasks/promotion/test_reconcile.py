"""Who is right when ledger and registry disagree."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.chain import Chain
from tasks.promotion.ledger import EntryKind, aliases, body, champion, parse
from tasks.promotion.reconcile import AliasState, Verification, reconcile
from tests.unit.infra.test_chain import MemoryStore
from tests.unit.tasks.promotion.histories import history

P, R = EntryKind.PROMOTED, EntryKind.ROLLED_BACK
GOOD = Verification(True, release="release-x")
TWO = history((P, "1", {"projected_from": None}), (P, "2", {"projected_from": "1"}))


def test_an_alias_that_shows_the_champion_is_in_step() -> None:
    found = reconcile(TWO, "2", {}, mark=2)
    assert found.outcome is AliasState.IN_STEP
    assert found.record is None
    assert found.aliases == {"champion": "2", "previous": "1", "challenger": None}


def test_in_step_after_a_crash_before_the_mark_brings_the_mark_up_to_date() -> None:
    assert reconcile(TWO, "2", {}, mark=1).mark == 2


def test_an_empty_ledger_and_no_alias_are_in_step() -> None:
    assert reconcile((), None, {}).outcome is AliasState.IN_STEP


def test_an_alias_as_before_an_unprojected_commit_lags() -> None:
    found = reconcile(TWO, "1", {"1": GOOD}, mark=1)
    assert found.outcome is AliasState.LAGGING
    assert found.record is None
    assert found.aliases["champion"] == "2"
    assert found.mark == 2


def test_a_first_promotion_that_never_reached_the_registry_lags() -> None:
    found = reconcile(TWO[:1], None, {}, mark=0)
    assert found.outcome is AliasState.LAGGING
    assert found.aliases["champion"] == "1"


def test_the_same_alias_after_the_projection_was_noted_is_an_operators_rollback() -> None:
    found = reconcile(TWO, "1", {"1": GOOD}, mark=2)
    assert found.outcome is AliasState.ADOPTED
    assert found.record is not None
    assert (found.record["kind"], found.record["actor"], found.record["version"]) == (
        "rolled-back",
        "mlflow",
        "1",
    )
    assert found.aliases == {"champion": "1", "previous": "2", "challenger": None}


def test_a_move_to_a_verified_newcomer_is_a_promotion_by_the_registry() -> None:
    found = reconcile(TWO, "3", {"3": GOOD}, mark=2)
    assert found.outcome is AliasState.ADOPTED
    assert found.record is not None
    assert (found.record["kind"], found.record["release"]) == ("promoted", "release-x")
    assert found.aliases["previous"] == "2"


def test_a_move_while_the_projection_lagged_is_still_the_operators() -> None:
    assert reconcile(TWO, "3", {"3": GOOD}, mark=1).outcome is AliasState.ADOPTED


def test_a_rollback_by_the_registry_keeps_the_release_that_the_ledger_knows() -> None:
    found = reconcile(TWO, "1", {"1": Verification(True)}, mark=2)
    assert found.record is not None
    assert found.record["release"] == "release-1"


@pytest.mark.parametrize("checks", [{}, {"9": Verification(False, "its release is not signed")}])
def test_a_move_to_anything_unverified_is_undone_and_reported(
    checks: dict[str, Verification],
) -> None:
    found = reconcile(TWO, "9", checks, mark=2)
    assert found.outcome is AliasState.UNDONE
    assert found.record is not None
    assert found.record["kind"] == "alias-undone"
    assert found.aliases["champion"] == "2"
    assert "version 9, which is unverified" in found.reason
    assert all(check.reason in found.reason for check in checks.values())


def test_an_unverified_earlier_champion_is_undone_too() -> None:
    assert (
        reconcile(TWO, "1", {"1": Verification(False, "a byte was flipped")}, mark=2).outcome
        is AliasState.UNDONE
    )


def test_a_deleted_alias_is_put_back() -> None:
    found = reconcile(TWO, None, {}, mark=2)
    assert found.outcome is AliasState.UNDONE
    assert "deleted" in found.reason
    assert found.aliases["champion"] == "2"


def test_an_alias_on_an_empty_ledger_is_adopted_when_verified_and_removed_when_not() -> None:
    adopted = reconcile((), "1", {"1": GOOD})
    assert adopted.outcome is AliasState.ADOPTED
    assert adopted.aliases == {"champion": "1", "previous": None, "challenger": None}
    undone = reconcile((), "1", {})
    assert undone.outcome is AliasState.UNDONE
    assert undone.aliases["champion"] is None


@dataclass
class World:
    """A ledger, a registry that shows one alias, and a process that may die between its writes."""

    chain: Chain = field(default_factory=lambda: Chain(MemoryStore(), "ledger/m"))
    alias: str | None = None
    mark: int = 0

    def promote(self, version: str, dies_after: str) -> None:
        details = {"projected_from": self.alias}
        link = self.chain.append(body(P, actor="a", reason="r", version=version, details=details))
        if dies_after == "commit":
            return
        self.alias = version
        if dies_after != "alias":
            self.mark = link.number

    def reconcile(self) -> AliasState:
        checks = dict.fromkeys("1234", GOOD) | {"evil": Verification(False, "unsigned")}
        found = reconcile(parse(self.chain.read()), self.alias, checks, self.mark)
        number = self.chain.append(found.record).number if found.record else 0
        self.alias = found.aliases["champion"]
        self.mark = number if found.mark is None else found.mark
        return found.outcome


steps = st.one_of(
    st.tuples(
        st.just("promote"), st.sampled_from("1234"), st.sampled_from(["commit", "alias", "nothing"])
    ),
    st.tuples(st.just("operator"), st.sampled_from([*"1234", "evil", None])),
    st.tuples(st.just("reconcile")),
)


@given(st.lists(steps, max_size=10))
def test_after_reconciling_once_registry_and_ledger_agree_whatever_happened(
    script: list[tuple[str, ...]],
) -> None:
    world = World()
    for step in script:
        if step[0] == "promote":
            world.promote(step[1], step[2])
        elif step[0] == "operator":
            world.alias = step[1]
        else:
            world.reconcile()
    world.reconcile()
    entries = parse(world.chain.read())
    assert world.alias == aliases(entries)["champion"]
    assert world.alias != "evil"
    assert world.reconcile() is AliasState.IN_STEP


@given(st.sampled_from(["commit", "alias", "nothing"]))
def test_a_commit_survives_the_death_of_its_process_at_any_point(dies_after: str) -> None:
    world = World()
    world.promote("1", "nothing")
    world.promote("2", dies_after)
    world.reconcile()
    assert world.alias == "2"


def test_an_operators_rollback_after_a_crash_before_the_mark_holds_once_the_alias_was_in_step() -> (
    None
):
    world = World()
    world.promote("1", "nothing")
    world.promote("2", "alias")
    world.reconcile()
    world.alias = "1"
    assert world.reconcile() is AliasState.ADOPTED
    reigning = champion(parse(world.chain.read()))
    assert reigning is not None
    assert reigning.version == "1"
