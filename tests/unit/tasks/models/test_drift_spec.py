"""The drift section of a spec: its defaults, the budget in words, and what is refused."""

import pytest
from pydantic import ValidationError

from tasks.specs.drift import ConfirmSpec, DriftSpec, WindowSpec


def test_the_false_alarm_budget_is_a_number_of_windows_or_says_so_in_words() -> None:
    assert DriftSpec().false_alarms == 1000
    assert DriftSpec.model_validate({"false_alarms": "one in 500 windows"}).false_alarms == 500
    assert DriftSpec.model_validate({"false_alarms": 200}).false_alarms == 200


@pytest.mark.parametrize("wrong", ["never", "one in many windows", 1, -3, 10**9])
def test_a_budget_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        DriftSpec.model_validate({"false_alarms": wrong})


def test_what_can_never_be_confirmed_and_an_unknown_reference_are_refused() -> None:
    with pytest.raises(ValidationError, match="3 of 2 windows can never be"):
        ConfirmSpec(windows=3, of=2)
    with pytest.raises(ValidationError):
        WindowSpec.model_validate({"reference": "yesterday"})
