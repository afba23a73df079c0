"""The line that a person watches while a command runs: percentage, step and its time.

A terminal gets one line that moves. Anything else gets a line a step, and one now and then while a
step is long.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from infra.processes.interruption import Interrupted

Say = Callable[[str, float], object]
"""Called with what comes next, and the fraction done, 0..1."""

REMINDER_S = 30.0
"""How long a step may take before its line is said again where nothing moves."""
BAR_FROM, BAR = 72, 20
"""Columns from which there is room for a bar beside the step's name, and the bar's own."""


@dataclass(slots=True)
class _Step:
    """What runs now; `since` is of the monotonic clock, in seconds."""

    sentence: str = ""
    fraction: float = 0.0
    since: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since

    def become(self, sentence: str, fraction: float) -> bool:
        """Take the next step; False when it is the same one, which goes on."""
        same = sentence == self.sentence
        self.sentence, self.fraction = sentence, fraction
        if not same:
            self.since = time.monotonic()
        return not same


@contextmanager
def progress(console: Console, *, quiet: bool = False) -> Iterator[Say]:
    """Show what is said inside the block; nothing when quiet.

    An interruption that passes through leaves saying at which step it came.
    """
    step = _Step()
    try:
        if quiet:
            yield step.become
        elif console.is_terminal and not console.is_dumb_terminal:
            with _moving(console, step) as say:
                yield say
        else:
            with _lines(step) as say:
                yield say
    except Interrupted:
        raise Interrupted(f"while {step.sentence}" if step.sentence else "") from None


@contextmanager
def _moving(console: Console, step: _Step) -> Iterator[Say]:
    """Draw one line ten times a second by a thread of its own, and wipe it at the end."""
    with Progress(
        *_columns(console.width, step), console=console, transient=True, expand=True
    ) as line:
        task = line.add_task("starting", total=1.0)

        def say(sentence: str, fraction: float) -> None:
            step.become(sentence, fraction)
            line.update(task, description=sentence, completed=fraction)

        yield say


def _columns(width: int, step: _Step) -> Iterator[ProgressColumn]:
    """Yield what fits: the step's name gives way first, then the bar."""
    yield SpinnerColumn("line")
    yield TextColumn("{task.percentage:>3.0f}%")
    yield TextColumn(
        "{task.description}",
        markup=False,
        table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
    )
    if width >= BAR_FROM:
        yield BarColumn(BAR)
    yield _StepTime(step)


class _StepTime(ProgressColumn):
    """How long the step has taken."""

    def __init__(self, step: _Step) -> None:
        super().__init__(Column(justify="right", no_wrap=True))
        self._step = step

    def render(self, task: Task) -> Text:
        """Render seconds, then minutes and seconds."""
        return Text(duration(self._step.seconds))


@contextmanager
def _lines(step: _Step) -> Iterator[Say]:
    """Print a line a step.

    A flow inside a flow may end with the same sentence, which is printed once.
    """
    over = threading.Event()

    def say(sentence: str, fraction: float) -> None:
        if step.become(sentence, fraction):
            _print_line(sentence, fraction)

    def remind() -> None:
        reminded = 1
        while not over.wait(min(1.0, REMINDER_S / 4)):
            due = int(step.seconds / REMINDER_S)
            if step.sentence and due >= reminded:
                _print_line(f"{step.sentence} ({duration(step.seconds)} so far)", step.fraction)
            reminded = due + 1

    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield say
    finally:
        over.set()
        reminder.join()


def _print_line(sentence: str, fraction: float) -> None:
    print(f"{fraction:4.0%}  {sentence}", file=sys.stdout, flush=True)


def duration(seconds: float) -> str:
    """Return whole seconds, from a minute on with minutes: "8 s", "2:05 min"."""
    rounded = int(seconds)
    return f"{rounded} s" if rounded < 60 else f"{rounded // 60}:{rounded % 60:02} min"
