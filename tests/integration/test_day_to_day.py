"""The README's day-to-day lines, as they stand there and in order, on shipped files."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.settings import Settings

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
SERVES = "up"
"""Runs until it is stopped; tests/integration/test_up.py has it."""


def day_to_day() -> list[list[str]]:
    """Return the arguments of each line, without the comment behind it."""
    section = (
        (ROOT / "README.md").read_text().partition("\n## Day to day\n")[2].partition("\n## ")[0]
    )
    lines = [line for line in section.splitlines() if line.startswith("    requant ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def told(*arguments: str) -> str:
    """Return what a line prints; it ends well."""
    from flows.cli import app

    done = CliRunner().invoke(app, ["--workspace", str(_workspace()), *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, f"requant {shlex.join(arguments)}: {done.output}"
    return done.output


def _workspace() -> Path:
    from infra.settings import settings

    return settings().root


def test_the_lines_of_the_readme_run_in_order(
    loop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    lines = day_to_day()
    assert [SERVES] in lines
    assert len(lines) > 15
    for line in lines:
        if line != [SERVES]:
            told(*line)
    kinds = [entry["kind"] for entry in json.loads(told("history", "digits", "--json"))]
    assert kinds.count("promoted") == 4, kinds
    assert [
        kinds.count(one) for one in ("approval-requested", "approved", "rolled-back", "forgotten")
    ] == [1, 1, 1, 1]
    (digits,) = json.loads(told("status", "digits", "--json"))
    assert digits["champion"]["version"] == "3"
