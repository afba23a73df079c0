"""The example of docs/models.md, run as it stands there."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


@pytest.mark.timeout(300)
def test_the_example_of_a_notebook_runs_as_it_stands(
    loop: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.cli import app

    monkeypatch.chdir(tmp_path)
    part = PAGE.read_text().partition("### All of it, small enough for a notebook")[2]
    (code,) = re.findall(r"```python\n(.*?)```", part, re.DOTALL)[:1]
    (commands,) = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)[:1]
    exec(compile(code, str(PAGE), "exec"), {})
    for line in commands.strip().splitlines():
        done = CliRunner().invoke(app, line.split()[1:])
        assert done.exit_code == 0, (line, done.output, done.exception)
    assert "promoted" in done.stdout
    assert "products run as asked" in done.stdout
