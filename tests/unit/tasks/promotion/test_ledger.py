"""What the ledger's entries mean."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.canonical import Json
from infra.chain import Link
from infra.errors import BadInput, Refused
from tasks.promotion.ledger import (
    EntryKind,
    LedgerEntry,
    aliases,
    body,
    challenger,
    champion,
    decided,
    done_since,
    may_promote,
    open_intent,
    parse,
    pending_approvals,
    previous,
    rollback_target,
)
from tests.unit.tasks.promotion.histories import START, history

P, R, ASK = EntryKind.PROMOTED, EntryKind.ROLLED_BACK, EntryKind.APPROVAL_REQUESTED
HOUR = timedelta(hours=1)


def version(entry: LedgerEntry | None) -> str | None:
    return entry.version if entry else None


# --- reading ---


def test_an_entry_keeps_all_that_was_written() -> None:
    (entry,) = history((P, "1", {"base": None, "gates": [1, 2]}))
    assert entry == LedgerEntry(
        1, START, P, "test", "because", "1", "release-1", {"base": None, "gates": [1, 2]}
    )


@pytest.mark.parametrize(
    "change", [{"kind": "invented"}, {"details": "text"}, {"extra": 1}, {"kind": None}]
)
def test_an_entry_that_this_version_cannot_read_asks_for_an_upgrade(
    change: dict[str, Json],
) -> None:
    good = body(P, actor="a", reason="r", version="1")
    with pytest.raises(BadInput, match=r"entry 1 .*pgrade Requant"):
        parse([Link(1, START.isoformat(), "", "", {**good, **change})])


@pytest.mark.parametrize("kind", [P, R, ASK, EntryKind.APPROVED, EntryKind.REJECTED])
def test_an_entry_about_a_version_must_name_it(kind: EntryKind) -> None:
    with pytest.raises(BadInput, match="needs the version"):
        body(kind, actor="a", reason="r")


# --- champion, previous, challenger ---


def test_an_empty_ledger_has_no_champion_and_no_aliases() -> None:
    assert champion(()) is None
    assert aliases(()) == {"champion": None, "previous": None, "challenger": None}


def test_the_newest_promotion_is_the_champion_and_the_one_before_is_previous() -> None:
    entries = history((P, "1"), (P, "2"), (EntryKind.REFUSED, "3"), (EntryKind.DECIDED, None))
    assert version(champion(entries)) == "2"
    assert version(previous(entries)) == "1"


def test_a_rollback_is_a_reign_too() -> None:
    entries = history((P, "1"), (P, "2"), (R, "1"))
    assert aliases(entries) == {"champion": "1", "previous": "2", "challenger": None}


def test_previous_is_another_version_even_when_the_champion_was_promoted_twice() -> None:
    assert version(previous(history((P, "1"), (P, "2"), (P, "2")))) == "1"
    assert previous(history((P, "1"), (P, "1"))) is None


def test_the_challenger_is_the_newest_request_that_waits() -> None:
    entries = history((P, "1"), (ASK, "2"), (ASK, "3"))
    assert version(challenger(entries)) == "3"
    assert [one.version for one in pending_approvals(entries)] == ["3", "2"]


@pytest.mark.parametrize("answer", [EntryKind.APPROVED, EntryKind.REJECTED])
def test_an_answered_request_no_longer_waits(answer: EntryKind) -> None:
    entries = history((P, "1"), (ASK, "2"), (ASK, "3"), (answer, "3"))
    assert [one.version for one in pending_approvals(entries)] == ["2"]


def test_a_request_made_again_after_a_rejection_waits_again_and_only_once() -> None:
    entries = history((ASK, "2"), (EntryKind.REJECTED, "2"), (ASK, "2"), (ASK, "2"))
    assert [one.number for one in pending_approvals(entries)] == [4]


@pytest.mark.parametrize("change", [(P, "3"), (R, "1")])
def test_a_change_of_champion_voids_the_requests_before_it(change: tuple[EntryKind, str]) -> None:
    entries = history((P, "1"), (P, "2"), (ASK, "4"), change)
    assert pending_approvals(entries) == ()
    assert challenger(entries) is None


# --- rollback ---


def test_rollback_returns_to_the_champion_before_with_its_release() -> None:
    target = rollback_target(history((P, "1"), (P, "2"), (P, "3")))
    assert (target.version, target.release) == ("2", "release-2")


def test_rolling_back_again_goes_further_back_never_forward() -> None:
    assert rollback_target(history((P, "1"), (P, "2"), (P, "3"), (R, "2"))).version == "1"
    with pytest.raises(Refused, match="no champion before it"):
        rollback_target(history((P, "1"), (P, "2"), (R, "1")))


def test_a_promotion_after_a_rollback_returns_to_the_rolled_back_to_version() -> None:
    assert rollback_target(history((P, "1"), (P, "2"), (R, "1"), (P, "3"))).version == "1"


def test_any_earlier_champion_may_be_named() -> None:
    entries = history((P, "1"), (P, "2"), (P, "3"), (R, "1"))
    assert rollback_target(entries, "3").version == "3"
    assert rollback_target(history((P, "1"), (P, "2"), (P, "3")), "1").version == "1"


def test_with_no_champion_there_is_nothing_to_roll_back_to() -> None:
    for to in (None, "1"):
        with pytest.raises(Refused, match="nothing to roll back to"):
            rollback_target(history((ASK, "1")), to)


def test_the_first_champion_has_nothing_before_it() -> None:
    with pytest.raises(Refused, match="no champion before it"):
        rollback_target(history((P, "1")))


def test_a_version_that_was_never_champion_is_refused_and_the_champions_are_named() -> None:
    with pytest.raises(Refused, match=r"never champion.*one of 1, 2"):
        rollback_target(history((P, "1"), (P, "2"), (P, "3"), (EntryKind.REFUSED, "4")), "4")


def test_the_present_champion_is_no_target() -> None:
    with pytest.raises(Refused, match="champion already"):
        rollback_target(history((P, "1"), (P, "2")), "2")


reigns = st.lists(
    st.tuples(st.sampled_from([P, R]), st.sampled_from("1234")), min_size=1, max_size=8
)


@given(reigns)
def test_a_rollback_target_is_an_earlier_champion_and_never_the_present_one(
    lines: list[tuple[EntryKind, str]],
) -> None:
    entries = history(*lines)
    try:
        target = rollback_target(entries)
    except Refused:
        return
    assert target in entries
    assert target.version != version(champion(entries))


@given(st.lists(st.sampled_from("1234"), min_size=2, max_size=8))
def test_rolling_back_over_and_over_ends(promoted: list[str]) -> None:
    lines = [(P, one) for one in promoted]
    for _ in range(len(promoted)):
        try:
            lines.append((R, str(rollback_target(history(*lines)).version)))
        except Refused:
            return
    pytest.fail("it rolled back more often than anything was promoted")


# --- promotion ---


def test_a_candidate_judged_against_the_present_champion_may_be_promoted() -> None:
    may_promote((), None)
    may_promote(history((P, "1")), "1")
    may_promote(history((P, "1"), (P, "2"), (R, "1")), "1")


@pytest.mark.parametrize(
    ("entries", "base", "said"),
    [
        (history((P, "1"), (P, "2")), "1", "against version 1, but the champion now is version 2"),
        (history((P, "1")), None, "against no champion, but the champion now is version 1"),
        ((), "1", "against version 1, but the champion now is no champion"),
    ],
)
def test_a_candidate_judged_against_another_champion_is_refused(
    entries: tuple[LedgerEntry, ...], base: str | None, said: str
) -> None:
    with pytest.raises(Refused, match=said):
        may_promote(entries, base)


# --- windows and intents ---


def test_a_window_is_decided_once_something_was_decided_about_it() -> None:
    entries = history(
        (EntryKind.DECIDED, None, {"window": "w1"}), (EntryKind.DECIDED, None, {"window": "w2"})
    )
    found = decided(entries, "w1", "source")
    assert found is not None
    assert found.number == 1
    assert decided(entries, "w3", "source") is None


def test_a_window_is_decided_anew_for_other_weights() -> None:
    entries = history(
        (EntryKind.DECIDED, None, {"window": "w", "source": "old"}),
        (EntryKind.DECIDED, None, {"window": "w", "source": "new"}),
    )
    assert decided(entries, "w", "old") == entries[0]
    assert decided(entries, "w", "new") == entries[1]
    assert decided(entries, "w", "newest") is None


def test_only_a_run_that_began_after_a_decision_has_acted_on_it() -> None:
    ended = EntryKind.FINISHED, None, {"window": "w", "run": "r1", "failed": False}
    failed = EntryKind.FINISHED, None, {"window": "w", "run": "r2", "failed": True}
    decision = EntryKind.DECIDED, None, {"window": "w"}
    assert done_since(history(decision, intended(), ended), "w", 1)
    assert not done_since(history(intended(), ended, decision), "w", 3)
    assert not done_since(history(intended(), decision, ended), "w", 2), (
        "it was at work for another reason"
    )
    assert not done_since(history(decision, intended(run="r2"), failed), "w", 1)
    assert not done_since(history(decision, intended(), ended), "another", 1)


def intended(window: str = "w", run: str = "r1") -> tuple[EntryKind, None, dict[str, Json]]:
    return EntryKind.INTENDED, None, {"window": window, "run": run}


def finished(window: str = "w", run: str = "r1") -> tuple[EntryKind, None, dict[str, Json]]:
    return EntryKind.FINISHED, None, {"window": window, "run": run, "outcome": "failed"}


def test_an_intent_is_open_until_its_lease_ends() -> None:
    entries = history(intended())
    assert open_intent(entries, "w", START + HOUR - timedelta(seconds=1), lease=HOUR) == entries[0]
    assert open_intent(entries, "w", START + HOUR, lease=HOUR) is None


def test_a_finished_intent_is_closed_whatever_came_of_it() -> None:
    assert open_intent(history(intended(), finished()), "w", START + HOUR, lease=9 * HOUR) is None


def test_another_runs_or_windows_finish_does_not_close_an_intent() -> None:
    entries = history(intended(), finished(run="r2"), finished(window="w2"))
    assert open_intent(entries, "w", START + HOUR, lease=9 * HOUR) == entries[0]


def test_a_run_that_took_a_dead_ones_window_over_holds_it() -> None:
    entries = history(intended(run="dead"), intended(run="heir"))
    assert open_intent(entries, "w", START + timedelta(hours=1.5), lease=HOUR) == entries[1]


def test_a_late_finish_of_the_dead_run_leaves_the_heirs_intent_open() -> None:
    entries = history(intended(run="dead"), intended(run="heir"), finished(run="dead"))
    found = open_intent(entries, "w", START + 1.5 * HOUR, lease=HOUR)
    assert found == entries[1]


@pytest.mark.parametrize("ask", [champion, previous, challenger, pending_approvals])
@given(
    lines=st.lists(st.tuples(st.sampled_from(list(EntryKind)), st.sampled_from("123")), max_size=10)
)
def test_questions_about_any_history_have_an_answer(
    ask: Callable[[tuple[LedgerEntry, ...]], object], lines: list[tuple[EntryKind, str]]
) -> None:
    ask(history(*lines))
