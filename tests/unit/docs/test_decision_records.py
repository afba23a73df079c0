"""Every record of a decision has one form, and its file is found by its number and title."""

import re
from pathlib import Path

import pytest

RECORDS = sorted((Path(__file__).parents[3] / "docs" / "adr").glob("*.md"))
SECTIONS = ["## Context", "## Decision", "## Consequences"]
STATUS = re.compile(r"Status: (accepted|superseded), \d{4}-\d{2}(; .+)?")


@pytest.fixture(params=RECORDS, ids=lambda record: record.name)
def record(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_the_title_bears_the_number_of_the_file(record: Path) -> None:
    title = record.read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(rf"# {int(record.name[:4])}\. \S.*", title)


def test_the_status_stands_below_the_title(record: Path) -> None:
    paragraph = record.read_text(encoding="utf-8").split("\n\n")[1]
    assert STATUS.fullmatch(" ".join(paragraph.split()))


def test_context_decision_and_consequences_follow_in_this_order(record: Path) -> None:
    lines = record.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("## ")] == SECTIONS


def test_no_two_records_share_a_number() -> None:
    numbers = [record.name[:4] for record in RECORDS]
    assert len(numbers) == len(set(numbers))
