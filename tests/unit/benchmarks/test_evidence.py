"""The map of what drift costs, in its smallest form: one shift of the digits, and regret."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.evidence import real_model, shifts
from benchmarks.evidence.kinds.catalog import KINDS
from benchmarks.evidence.kinds.model_kind import KindModel, ModelKind
from benchmarks.evidence.kinds.ocr import text_recognizer
from benchmarks.evidence.kinds.signals import image_classifier
from benchmarks.evidence.page import as_markdown
from benchmarks.evidence.quality import quality
from benchmarks.evidence.real_model import AnswerOnText
from benchmarks.evidence.regret import as_lines, regret
from benchmarks.evidence.scene import CellChoice
from benchmarks.evidence.shifts import draw
from benchmarks.evidence.spread import pieces, spread
from benchmarks.evidence.trial import AGAIN, KEPT, LAST, SCHEMES, meet, open_scene
from tasks.records import Action

BUDGET = 0.05


@pytest.fixture(scope="module")
def digits() -> ModelKind:
    return image_classifier()


def choice(
    taken: str, kept: float, again: float = 0.0, action: Action = Action.RECALIBRATE
) -> CellChoice:
    return CellChoice(BUDGET, action, taken, {KEPT: kept, AGAIN: again, LAST: 0.0})


def test_stale_scales_cost_answers_and_the_loop_wins_them_back(digits: ModelKind) -> None:
    scene = open_scene(digits, ("int8-max", "int8-dynamic"), 96, 0)
    exposure = next(shift for shift in digits.shifts if shift.name == "exposure")
    fixed, dynamic = meet(scene, exposure)
    assert (
        fixed.choice.losses[KEPT] == fixed.stale.mean() > digits.budget > fixed.choice.losses[AGAIN]
    )
    assert fixed.choice.action is Action.RECALIBRATE
    assert fixed.choice.taken == AGAIN
    assert dynamic.recalibrated is None
    assert dynamic.choice.taken == KEPT
    page = as_markdown([fixed, dynamic], 1, 96, "python -m benchmarks.evidence image")
    assert "goal at most 5%: reached" in page
    assert "| exposure | int8-dynamic |" in page


def test_other_weights_ask_for_a_build_and_the_old_champion_pays_until_then(
    digits: ModelKind,
) -> None:
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


def test_a_build_for_new_weights_is_due_and_counted_apart() -> None:
    found = regret(
        [
            choice(AGAIN, 0.25),
            replace(choice(AGAIN, 0.01), due=True),
            replace(choice(KEPT, 0.0), due=True),
        ]
    )
    assert (found.builds, found.due, found.early) == (2, 1, 1)
    assert found.needless is not None
    assert found.needless.value == 0.0
    assert "in 1 of these" in as_lines(found)[0]


def test_an_interrupted_map_goes_on_and_is_the_same_in_pieces(
    digits: ModelKind, tmp_path: Path
) -> None:
    wanted = pieces(["image"], 1, 24)
    assert len({piece.file for piece in wanted}) == len(wanted) == 5 + len(SCHEMES)
    few = [piece for piece in wanted if piece.shift in ("exposure", "adversarial")][-3:]
    list(spread(few[:1], 1, tmp_path))
    kept = (tmp_path / few[0].file).stat().st_mtime_ns
    found = dict(spread(few, 2, tmp_path))
    assert set(found) == set(few)
    assert (tmp_path / few[0].file).stat().st_mtime_ns == kept
    assert not list(tmp_path.glob(".*"))
    scene = open_scene(digits, SCHEMES, 24, 0)
    whole = {
        (cell.shift, cell.scheme): cell for shift in digits.shifts for cell in meet(scene, shift)
    }
    for cell in (cell for cells in found.values() for cell in cells):
        assert cell.choice == whole[cell.shift, cell.scheme].choice


def test_nothing_at_stake_is_no_regret_of_zero() -> None:
    found = regret([choice(KEPT, 0.01)])
    assert found.regret is None
    assert found.needless is None
    assert not found.reached


def test_the_map_has_six_kinds_and_five_schemes() -> None:
    assert (len(KINDS), len(SCHEMES)) == (6, 5)


def test_every_shift_of_a_text_recognizer_finds_traffic_and_golden_cases() -> None:
    kind, rng = text_recognizer(), np.random.default_rng(0)
    reference = KindModel(kind, kind.subject.reference)
    for shift in (kind.home, *kind.shifts):
        requests, cases = (draw(side, shift, 10, rng) for side in (kind.traffic, kind.golden))
        payloads = [payloads[-1] for _, payloads in (*requests, *cases)]
        assert all(reference.inputs.record(payload)["x"].shape[1] == 48 for payload in payloads)
    home = [(case, case.payload) for case in kind.golden if kind.home.parts[0].select(case)]
    assert quality(kind, kind.subject.reference, home[:24]).mean() > 0.9


def test_a_shift_of_pictures_is_written_as_a_file_again() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(buffer, "PNG")
    picture = {"image": np.frombuffer(buffer.getvalue(), np.uint8)}
    darker = shifts.pictured(shifts.scaled(0.5))(picture, np.random.default_rng(0))
    assert isinstance(darker, dict)
    with Image.open(io.BytesIO(darker["image"].tobytes())) as image:
        assert np.asarray(image).max() == 100
    with pytest.raises(TypeError, match="was given something else"):
        shifts.pictured(shifts.scaled(0.5))("a text", np.random.default_rng(0))


def test_shifts_of_signals_say_what_they_do() -> None:
    rng, wave = np.random.default_rng(0), np.linspace(-1, 1, 100, dtype=np.float32)
    both = shifts.chained(shifts.scaled(2.0), shifts.offset(0.5))(wave, rng)
    assert np.asarray(both).max() == pytest.approx(3.0)
    assert 4100 <= len(shifts.late(wave, rng)) < 8100
    with pytest.raises(TypeError, match="was given a text"):
        shifts.late("a text", rng)


def test_a_real_language_model_has_a_line_an_answer_and_what_each_wins_back() -> None:
    def judged(answer: str, **ratios: float) -> list[AnswerOnText]:
        return [
            AnswerOnText(answer, kind, ratio, 0.9, 0.04, 249.0, 0.5, 18.0)
            for kind, ratio in ratios.items()
        ]

    stale = judged("en, stale", en=1.03, fr=1.23, de=1.23, ja=1.83, ru=1.63, code=1.03)
    again = judged("resmooth", en=1.1, fr=1.03, de=1.03, ja=1.03, ru=1.03, code=1.03)
    page = real_model.as_part([*stale, *again, *judged("resmooth", en=1.2)], "a command")
    assert "| en, stale | 1.030 | 1.230 | 1.230 | 1.830 | 1.630 | 1.030 | 1.830 |" in page
    assert "| resmooth | 1.200 | 1.030 |" in page
    assert "- resmooth: 100% of what other text costs is won back." in page


@pytest.mark.soak
def test_every_answer_is_made_and_judged_on_the_shipped_language_model() -> None:
    measured = real_model.measure(quick=True)
    assert {item.kind for item in measured} == {"en", *real_model.SHIFTED}
    assert all(0.5 < item.ratio < 5 for item in measured)
