"""What a benchmark returns: rows, and goals with the figure that was really reached."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text


def column(header: str, form: str = "") -> Any:
    """Declare a row's field: its header and the format of its numbers."""
    return field(metadata={"header": header, "form": form})


def reason(header: str) -> Any:
    """Declare a row's field of long text: it stands under the table, its number in the row."""
    return field(metadata={"header": header, "form": "", "footnote": True})


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure that was aimed for."""

    what: str
    target: float
    figure: float | None  # None: it could not be measured
    direction: str = "at least"

    @property
    def reached(self) -> bool:
        """Return whether the goal is reached; never true without a figure."""
        if self.figure is None:
            return False
        return (
            self.figure >= self.target
            if self.direction == "at least"
            else self.figure <= self.target
        )


@dataclass(frozen=True, slots=True)
class ResultTable:
    """One benchmark's outcome."""

    name: str
    title: str
    rows: Sequence[Any]  # frozen dataclasses of one type, their fields made by `column`
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()

    def document(self) -> Mapping[str, Any]:
        """Return what goes into the JSON file."""
        goals = [{**asdict(goal), "reached": goal.reached} for goal in self.goals]
        return {
            "name": self.name,
            "title": self.title,
            "rows": [asdict(row) for row in self.rows],
            "goals": goals,
            "notes": list(self.notes),
        }

    def render(self) -> RenderableType:
        """Render rows, goals and notes for a terminal."""
        rich = RichTable(title=self.title, title_justify="left", header_style="bold")
        for item in fields(self.rows[0]) if self.rows else ():
            rich.add_column(
                item.metadata["header"], justify="right" if item.metadata["form"] else "left"
            )
        reasons: list[str] = []
        for row in self.rows:
            rich.add_row(*cells(row, reasons))
        numbered = [f"[{number}] {text}" for number, text in enumerate(reasons, start=1)]
        return Group(
            rich,
            *map(_sentence, self.goals),
            *(Text(note, "dim") for note in (*numbered, *self.notes)),
        )


def cells(row: object, reasons: list[str]) -> list[str]:
    """Return a row's fields as text; what is None was not measured.

    Long texts are moved to `reasons`.
    """
    if not is_dataclass(row):
        raise TypeError(f"a row is a frozen dataclass, not {type(row).__name__}")
    return [_cell(getattr(row, item.name), item.metadata, reasons) for item in fields(row)]


def _cell(value: object, metadata: Mapping[str, Any], reasons: list[str]) -> str:
    if value is None:
        return "–"
    form = metadata["form"]
    if metadata.get("footnote") and " " in str(value):
        if value not in reasons:
            reasons.append(str(value))
        return f"{str(value).partition(':')[0]} [{reasons.index(str(value)) + 1}]"
    return format(value, form) if form and not isinstance(value, str) else str(value)


def _sentence(goal: Goal) -> Text:
    figure = "not measured" if goal.figure is None else f"{goal.figure:.4g}"
    verdict = "reached" if goal.reached else "missed"
    text = f"{verdict}: {goal.what} {figure} (goal: {goal.direction} {goal.target:g})"
    return Text(text, "green" if goal.reached else "red")
