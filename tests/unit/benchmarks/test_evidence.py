"""The map of what drift costs, in its smallest form: one shift of the digits, and the arithmetic of regret."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.evidence import shifts
from benchmarks.evidence.kinds import KIND_NAMES, KINDS, Kind, image_classifier
from benchmarks.evidence.page import as_markdown
from benchmarks.evidence.regret import as_lines, regret
from benchmarks.evidence.scene import Choice
from benchmarks.evidence.trial import AGAIN, KEPT, LAST, SCHEMES, meet, open_scene
from tasks.records import Action

BUDGET = 0.05


@pytest.fixture(scope="module")
def digits() -> Kind:
    return image_classifier()


def choice(taken: str, kept: float, again: float = 0.0, action: Action = Action.RECALIBRATE) -> Choice:
    return Choice(BUDGET, action, taken, {KEPT: kept, AGAIN: again, LAST: 0.0})


def test_stale_scales_cost_answers_and_the_loop_wins_them_back(digits: Kind) -> None:
    scene = open_scene(digits, ("int8-max", "int8-dynamic"), 96, 0)
    exposure = next(shift for shift in digits.shifts if shift.name == "exposure")
    fixed, dynamic = meet(scene, exposure)
    assert fixed.choice.losses[KEPT] == fixed.stale.mean() > digits.budget > fixed.choice.losses[AGAIN]
    assert fixed.choice.action is Action.RECALIBRATE
    assert fixed.choice.taken == AGAIN
    assert dynamic.recalibrated is None
    assert dynamic.choice.taken == KEPT
    page = as_markdown([fixed, dynamic], 1, 96, "python -m benchmarks.evidence image")
    assert "goal at most 5%: reached" in page
    assert "| exposure | int8-dynamic |" in page


def test_other_weights_ask_for_a_build_and_the_old_champion_pays_until_then(digits: Kind) -> None:
    scene = open_scene(digits, ("int8-max",), 64, 0)
    update = next(shift for shift in digits.shifts if shift.weights)
    (cell,) = meet(scene, replace(update, weights=0.8))
    assert cell.choice.taken != KEPT
    assert cell.choice.losses[KEPT] > cell.stale.mean()


def test_regret_is_the_share_of_the_loss_at_stake_that_the_decisions_leave() -> None:
    found = regret([choice(AGAIN, 0.25), choice(KEPT, 0.15)])
    assert found.regret is not None
    assert found.regret.value == pytest.approx(0.10 / 0.30)
    assert (found.at_stake, found.missed, found.builds) == (2, 1, 1)
    assert "missed" in "\n".join(as_lines(found))


def test_a_build_is_needless_where_the_stale_champion_kept_its_budget() -> None:
    found = regret([choice(AGAIN, 0.25), choice(AGAIN, 0.04), choice(KEPT, 0.0)])
    assert found.needless is not None
    assert found.needless.value == 0.5
    assert not found.reached


def test_nothing_at_stake_is_no_regret_of_zero() -> None:
    found = regret([choice(KEPT, 0.01)])
    assert found.regret is None
    assert found.needless is None
    assert not found.reached


def test_the_map_has_five_kinds_five_schemes_and_ten_shifts() -> None:
    assert set(KIND_NAMES) == set(KINDS)
    assert (len(KINDS), len(SCHEMES)) == (5, 5)


def test_shifts_of_signals_say_what_they_do() -> None:
    rng, wave = np.random.default_rng(0), np.linspace(-1, 1, 100, dtype=np.float32)
    both = shifts.chained(shifts.scaled(2.0), shifts.offset(0.5))(wave, rng)
    assert np.asarray(both).max() == pytest.approx(3.0)
    assert 4100 <= len(shifts.late(wave, rng)) < 8100
    with pytest.raises(TypeError, match="was given a text"):
        shifts.late("a text", rng)
