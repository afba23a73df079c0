"""What reading commands cost beside an earlier commit: measured, or why it cannot be."""

from pathlib import Path

import pytest

from benchmarks.orchestration import commands, served
from infra.settings import Settings


def test_a_checkout_beside_itself_costs_about_as_much(workspace: Settings) -> None:
    served.prepare(workspace)
    table = commands.compare(commands.ROOT, workspace.root, 1, "itself")
    assert [row.command for row in table.rows] == [*commands.READING, *commands.BESIDE]
    assert [goal.target for goal in table.goals] == [0.25] * len(commands.READING)
    assert all(0.3 < row.ratio < 3 and row.now > 0.01 for row in table.rows)


def test_a_command_that_fails_is_no_measurement(workspace: Settings) -> None:
    with pytest.raises(RuntimeError, match="no model is called 'tiny'"):
        commands.cpu_seconds(commands.ROOT, workspace.root, commands.READING["explain"])


@pytest.mark.skipif(not (commands.ROOT / ".git").exists(), reason="no git checkout")
def test_the_code_of_a_commit_is_unpacked_and_an_unknown_one_refused(tmp_path: Path) -> None:
    commands.unpack("HEAD", tmp_path / "head")
    assert (tmp_path / "head" / "flows" / "cli" / "__init__.py").is_file()
    with pytest.raises(ValueError, match=r"commit no-such cannot be read .*--base"):
        commands.unpack("no-such", tmp_path / "none")
