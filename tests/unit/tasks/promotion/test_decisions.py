"""What later decisions read back of earlier ones."""

from dataclasses import replace

from infra.canonical import Json
from tasks.promotion.decisions import (
    decision_details,
    nothing_left,
    past_decisions,
    recorded,
    was_thin,
)
from tasks.promotion.ledger import EntryKind
from tasks.records import Action, Decision, SampleRef, ThinWindow
from tests.unit.tasks.promotion.histories import history


def details(window: SampleRef | ThinWindow, action: Action) -> dict[str, Json]:
    return decision_details(Decision(action, ("because",), (), window.digest), window)


THIN = details(ThinWindow("m", "thin", rows=9, minimum=200), Action.INCONCLUSIVE)
FULL = details(
    SampleRef("m", "full", "windows/m/full.parquet", 256, 300, {}, ()), Action.INCONCLUSIVE
)


def test_a_window_that_was_too_thin_is_none_of_the_windows_before() -> None:
    entries = history(
        (EntryKind.DECIDED, None, FULL),
        (EntryKind.DECIDED, None, THIN),
        (EntryKind.DECIDED, None, FULL),
    )
    assert [one.number for one in past_decisions(entries)] == [1, 3]
    assert [one.number for one in past_decisions(entries, before=3)] == [1]


def test_a_decision_that_says_nothing_of_its_sample_was_about_one() -> None:
    (entry,) = history((EntryKind.DECIDED, None, {"window": "w", "action": "keep"}))
    assert not was_thin(entry)
    assert len(past_decisions((entry,))) == 1


def test_the_number_of_requests_is_recorded_however_few() -> None:
    assert (THIN["rows"], FULL["rows"]) == (9, 256)


def decision(action: str, *, builds: bool = False, control: str = "fine") -> dict[str, Json]:
    detectors: dict[str, Json] = {"control": control}
    return {
        "window": "w",
        "action": action,
        "builds": builds,
        "lenses": detectors,
        "champion": {"version": "1"},
    }


def test_a_decision_to_keep_is_settled_for_the_champion_that_it_is_about() -> None:
    entries = history((EntryKind.DECIDED, None, decision("keep")))
    assert nothing_left(entries[0], entries, champion="1", acted=False)
    assert not nothing_left(entries[0], entries, champion="2", acted=False), (
        "it came back by a rollback"
    )


def test_a_build_is_settled_once_a_run_took_it_up() -> None:
    entries = history((EntryKind.DECIDED, None, decision("recalibrate", builds=True)))
    assert not nothing_left(entries[0], entries, champion="1", acted=False)
    assert nothing_left(entries[0], entries, champion="2", acted=True)


def test_an_entry_that_does_not_say_whether_it_builds_is_looked_at_again() -> None:
    details = decision("keep")
    del details["builds"]
    entries = history((EntryKind.DECIDED, None, details))
    assert not nothing_left(entries[0], entries, champion="1", acted=False)


def test_a_request_for_retraining_is_settled_once_it_was_made() -> None:
    decided = EntryKind.DECIDED, None, decision("request-retraining", control="degraded")
    asked = EntryKind.RETRAINING_REQUESTED, None, {"window": "w"}
    for lines, done in (((decided,), False), ((decided, asked), True), ((asked, decided), False)):
        entries = history(*lines)
        entry = next(one for one in entries if one.kind is EntryKind.DECIDED)
        assert nothing_left(entry, entries, champion="1", acted=False) is done
    held = history((EntryKind.DECIDED, None, decision("hold", control="degraded")))
    assert nothing_left(held[0], held, champion="1", acted=False), (
        "what is held back is not requested"
    )


def test_a_recorded_decision_is_read_back_without_its_readings() -> None:
    made = Decision(
        Action.HOLD, ("because", "range is fine"), (), "full", "scales outgrown", "cooldown"
    )
    window = SampleRef("m", "full", "windows/m/full.parquet", 256, 300, {}, ())
    (entry,) = history((EntryKind.DECIDED, None, decision_details(made, window)))
    assert recorded(entry) == made
    assert recorded(replace(entry, details={"window": "full", "action": "hold"})).reasons == (
        entry.reason,
    )
