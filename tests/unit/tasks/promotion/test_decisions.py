"""What later decisions read back of earlier ones."""

from infra.canonical import Json
from tasks.promotion.decisions import decision_details, past_decisions, was_thin
from tasks.promotion.ledger import Kind
from tasks.records import Action, Decision, SampleRef, ThinWindow
from tests.unit.tasks.promotion.histories import history


def details(window: SampleRef | ThinWindow, action: Action) -> dict[str, Json]:
    return decision_details(Decision(action, ("because",), (), window.digest), window)


THIN = details(ThinWindow("m", "thin", rows=9, minimum=200), Action.INCONCLUSIVE)
FULL = details(SampleRef("m", "full", "windows/m/full.parquet", 256, 300, {}, ()), Action.INCONCLUSIVE)


def test_a_window_that_was_too_thin_is_none_of_the_windows_before() -> None:
    entries = history((Kind.DECIDED, None, FULL), (Kind.DECIDED, None, THIN), (Kind.DECIDED, None, FULL))
    assert [one.number for one in past_decisions(entries)] == [1, 3]
    assert [one.number for one in past_decisions(entries, before=3)] == [1]


def test_a_decision_that_says_nothing_of_its_sample_was_about_one() -> None:
    (entry,) = history((Kind.DECIDED, None, {"window": "w", "action": "keep"}))
    assert not was_thin(entry)
    assert len(past_decisions((entry,))) == 1


def test_the_number_of_requests_is_recorded_however_few() -> None:
    assert (THIN["rows"], FULL["rows"]) == (9, 256)
