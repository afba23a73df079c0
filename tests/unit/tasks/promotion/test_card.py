"""What the registry tells a person of a version."""

from tasks.promotion.card import about_version
from tasks.promotion.ledger import EntryKind, labels
from tasks.records import CandidateRef, GateReport, GateResult, Interval, Verdict
from tests.unit.tasks.promotion.histories import history

CANDIDATE = CandidateRef("m", "c" * 64, "int8-smooth", "a" * 64, (), 0.987)


def report(target: str, *gates: tuple[str, Verdict, str]) -> GateReport:
    value = Interval(1.0, 1.0, 1.0)
    made = [
        GateResult(name, "all", True, verdict, value, 1.0, "at least", 9, why)
        for name, verdict, why in gates
    ]
    return GateReport(target, tuple(made))


PASSED = report(
    "onnxruntime-cpu",
    ("cosine", Verdict.PASSED, "fine"),
    ("layer-precision", Verdict.PASSED, "layer-precision: 9 of 9 products run as asked"),
)
UNSURE = report("tensorrt-rtx", ("execution", Verdict.INCONCLUSIVE, "no CUDA device is visible"))


def test_a_version_says_its_recipe_one_line_a_target_its_data_and_who_served_before() -> None:
    text = about_version(
        CANDIDATE, [PASSED, UNSURE], window="b" * 64, champion="3", release="d" * 64
    )
    assert text.splitlines() == [
        "Recipe `int8-smooth`, which has 99% of the graph's weights in fewer bits.",
        "",
        "- onnxruntime-cpu: passed, 2 gates",
        "- tensorrt-rtx: inconclusive; no CUDA device is visible",
        "- onnxruntime-cpu: layer-precision: 9 of 9 products run as asked",
        "- calibrated on set `aaaaaaaaaaaa`, drawn for window `bbbbbbbbbbbb`",
        "- champion before: version 3",
        "- release `dddddddddddd`",
    ]


def test_a_first_champion_had_nobody_before_it() -> None:
    text = about_version(CANDIDATE, [PASSED], window="", champion=None, release="d" * 64)
    assert "- champion before: none" in text
    assert "- calibrated on set `aaaaaaaaaaaa`\n" in text


def test_a_version_is_labelled_with_the_newest_entry_about_it() -> None:
    entries = history(
        (EntryKind.DECIDED, None, {}),
        (EntryKind.PROMOTED, "1", {}),
        (EntryKind.REFUSED, "2", {}),
        (EntryKind.ROLLED_BACK, "1", {}),
    )
    assert labels(entries) == {
        "1": {"ledger": "4", "ledger.kind": "rolled-back"},
        "2": {"ledger": "3", "ledger.kind": "refused"},
    }
