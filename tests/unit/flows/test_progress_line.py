"""The line that moves: what stands in it at any width, and what is said where nothing moves."""

import os
import re
import sys
import textwrap
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from flows.cli import progress_line
from flows.cli.progress_line import duration, progress
from flows.orchestration.progress import Progress, listening
from infra.processes.interruption import Interrupted
from tests.terminals import run_on_terminal

ROOT = Path(__file__).resolve().parents[3]
LONG = "observing 256 requests at 4 sites, each of which has a long name"
SCRIPT = textwrap.dedent(f"""
    import time
    from rich.console import Console
    from flows.cli.progress_line import progress
    with progress(Console()) as say:
        say({LONG!r}, 0.42)
        time.sleep(2.4)
        say("releasing the candidate", 0.9)
        time.sleep(0.3)
""")
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


def drawn(columns: int, **extra: str) -> str:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")
    }
    environment = {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **extra}
    code, text = run_on_terminal([sys.executable, "-c", SCRIPT], columns, environment, 60)
    assert code == 0, text
    return text


@pytest.mark.parametrize("columns", [40, 120])
def test_percentage_step_and_its_time_fit_on_one_line_of_any_width(columns: int) -> None:
    lines = [CODES.sub("", line).strip("\r\n") for line in re.split(r"[\r\n]", drawn(columns))]
    lines = [line for line in lines if line.strip()]
    assert max(map(cell_len, lines)) <= columns
    shown = [line for line in lines if "42%" in line]
    assert all("observing 256 requests" in line for line in shown)
    assert all(re.search(r"\d+ s$", line.rstrip()) for line in shown)
    assert any("90%" in line and "releasing" in line for line in lines)


def test_a_long_step_moves() -> None:
    times = re.findall(r"42%[^\r\n]*?(\d+) s(?!\w)", CODES.sub("", drawn(80)))
    assert {"0", "1", "2"} <= set(times)


def test_there_is_no_colour_where_none_is_wanted() -> None:
    assert COLOUR.search(drawn(80))
    assert not COLOUR.search(drawn(80, NO_COLOR="1"))


def test_without_a_terminal_a_long_step_is_said_again_with_its_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_line, "REMINDER_S", 0.4)
    with progress(Console(file=sys.stdout)) as say:
        say("observing", 0.1)
        say("observing", 0.1)
        time.sleep(1.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == " 10%  observing"
    assert lines.count(lines[0]) == 1
    assert len(lines) > 1
    assert all(re.fullmatch(r" 10%  observing \(\d+ s so far\)", line) for line in lines[1:])
    assert "\x1b" not in "".join(lines)


def test_an_interruption_says_at_which_step_it_came() -> None:
    def observe() -> None:
        with progress(Console(), quiet=True) as say:
            say("observing", 0.1)
            raise Interrupted

    with pytest.raises(Interrupted, match=r"^while observing$"):
        observe()


def test_a_flow_inside_a_flow_fills_what_the_other_had_left() -> None:
    shares: list[float] = []
    with listening(lambda _, share: shares.append(share)):
        outer = Progress("maintain")
        outer.step("writing", 0.8)
        with outer.the_rest():
            inner = Progress("re-quantize")
            inner.step("observing", 0.5)
            inner.step("done", 1.0)
        outer.step("done", 1.0)
    assert shares == pytest.approx([0.8, 0.9, 1.0, 1.0])


def test_times_are_read_at_a_glance() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.9, 65, 3600)] == [
        "0 s",
        "59 s",
        "1:05 min",
        "60:00 min",
    ]
