"""The pages are short, narrow, whole in their links, and say the field's words."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COLUMNS = 100
PATH = re.compile(
    r"(?<![\w/])((?:tasks|flows|infra|benchmarks|dashboards|tests|examples|docs)/[\w./-]*\w)"
)
IMPORT = re.compile(r"^    from ([\w.]+) import ([\w, ]+)$", flags=re.MULTILINE)
LINK = re.compile(r"\[[^]]*\]\(([^)#:]+)(?:#[^)]*)?\)")
CODE = re.compile(r"^(?:    .*|```.*?^```)$|`[^`]*`", flags=re.MULTILINE | re.DOTALL)
OLD_WORDS = (
    "lens",
    "lenses",
    "rung",
    "rungs",
    "divisors",
    "curvature",
    "kept_high",
    "burial",
    "remark",
    "remarks",
    "room",
    "rooms",
    "watermark",
    "smoothing factor",
    "smoothing factors",
)
OLD_WORD = rf"\b(?:{'|'.join(map(re.escape, OLD_WORDS))})\b"


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_the_readme_has_at_most_nine_hundred_words() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 900


def test_no_line_but_a_tables_is_wider_than_a_screen(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > COLUMNS and not line.startswith("|")] == []


def test_every_link_within_the_repository_leads_to_a_file(page: Path) -> None:
    linked = LINK.findall(page.read_text(encoding="utf-8"))
    assert [path for path in linked if not (page.parent / path).exists()] == []


def test_every_path_that_is_named_exists(page: Path) -> None:
    prose = LINK.sub("", page.read_text(encoding="utf-8"))
    assert [path for path in PATH.findall(prose) if not (ROOT / path).exists()] == []


def test_everything_that_an_example_imports_is_there(page: Path) -> None:
    for module, names in IMPORT.findall(page.read_text(encoding="utf-8")):
        imported = import_module(module)
        assert [name for name in names.split(", ") if not hasattr(imported, name)] == []


def test_words_that_were_replaced_do_not_come_back(page: Path) -> None:
    prose = " ".join(CODE.sub("", page.read_text(encoding="utf-8")).split())
    assert re.findall(OLD_WORD, prose, flags=re.IGNORECASE) == []
