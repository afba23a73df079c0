from __future__ import annotations

import numpy as np
import pytest

from tasks.serving.delivery import (
    Move,
    StepEvaluation,
    StepVerdict,
    evaluated,
    least_scores,
    next_move,
)
from tasks.specs.serving import DeliverySpec

SPEC = DeliverySpec(step_s=60, give_up_s=1000, bake_s=600)
LEAST = least_scores(SPEC, compared=True, decides=True)
WELL = {
    "latency": np.ones(600),
    "errors": np.ones(600),
    "fidelity": np.full(600, 0.5),
    "flips": np.full(600, 0.5),
}


def verdict(**changes: np.ndarray[tuple[int], np.dtype[np.float64]]) -> StepVerdict:
    return evaluated({**WELL, **changes}, LEAST, 0.05).verdict


def test_a_candidate_passes_when_every_measure_is_proved() -> None:
    assert verdict() is StepVerdict.PASS


def test_one_failed_measure_fails_whatever_the_others_say() -> None:
    assert verdict(fidelity=np.full(600, 0.2)) is StepVerdict.FAIL
    assert verdict(errors=np.zeros(20), flips=np.zeros(0)) is StepVerdict.FAIL


def test_little_traffic_proves_nothing_and_none_at_all_never_passes() -> None:
    few = {name: values[:5] for name, values in WELL.items()}
    assert evaluated(few, LEAST, 0.05).verdict is StepVerdict.INCONCLUSIVE
    assert verdict(flips=np.zeros(0)) is StepVerdict.INCONCLUSIVE
    assert evaluated({}, LEAST, 0.05).verdict is StepVerdict.NO_DATA


def test_a_candidate_that_lies_on_its_margins_is_hardly_ever_failed() -> None:
    failed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        late = rng.random(400) < 0.5
        shown = evaluated({"latency": 1.0 - late}, {"latency": 0.5}, 0.05).verdict
        failed += shown is StepVerdict.FAIL
    assert failed <= 4


@pytest.mark.parametrize(
    ("shown", "seconds", "baking", "move"),
    [
        (StepVerdict.PASS, 61, False, Move.ADVANCE),
        (StepVerdict.PASS, 59, False, Move.HOLD),
        (StepVerdict.INCONCLUSIVE, 61, False, Move.HOLD),
        (StepVerdict.NO_DATA, 999, False, Move.HOLD),
        (StepVerdict.NO_DATA, 1000, False, Move.ABORT),
        (StepVerdict.FAIL, 0, False, Move.ABORT),
        (StepVerdict.FAIL, 9999, True, Move.ABORT),
        (StepVerdict.INCONCLUSIVE, 599, True, Move.HOLD),
        (StepVerdict.INCONCLUSIVE, 600, True, Move.ADVANCE),
    ],
)
def test_what_follows_a_verdict(
    shown: StepVerdict, seconds: float, baking: bool, move: Move
) -> None:
    assert next_move(StepEvaluation(shown, {}), seconds, SPEC, baking=baking) is move
