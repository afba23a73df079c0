"""Every term has one sentence and a source, and what it is called in the code is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
SOURCE = "\n".join(
    path.read_text(encoding="utf-8")
    for package in ("infra", "tasks", "flows", "benchmarks")
    for path in sorted((ROOT / package).rglob("*.py"))
)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in GLOSSARY.splitlines()
    if line.startswith("| ") and not line.startswith("| term |")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_term_has_one_sentence_and_a_source(row: list[str]) -> None:
    _, meaning, source, _ = row
    assert meaning.endswith(".")
    assert source


@pytest.mark.parametrize("row", [row for row in ROWS if row[3]], ids=lambda row: row[0])
def test_the_code_has_a_term_under_the_name_that_is_stated(row: list[str]) -> None:
    assert re.search(re.escape(row[3].strip("`")), SOURCE, flags=re.IGNORECASE)


def test_no_term_is_explained_twice() -> None:
    terms = [term for row in ROWS for term in row[0].split(", ")]
    assert len(terms) == len(set(terms))
