"""How figures and times read on a page: pure functions, used as template filters."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.queries.versions import GateRow
from tasks.records import GateResult, Interval

WIDTH = 160.0
"""Units across a gate's picture."""
_IDEAL = {"cosine": 1.0, "recall": 1.0, "accuracy": 1.0}


@dataclass(frozen=True, slots=True)
class Picture:
    """Where a gate's figures lie across `WIDTH`."""

    low: float
    high: float
    value: float
    budget: float
    champion: float | None
    kept_from: float  # the stretch that keeps the budget
    kept_to: float

    @property
    def span(self) -> float:
        """Return the width of the interval; never too thin to see."""
        return max(self.high - self.low, 2.0)


def figure(value: float) -> str:
    """Return four significant digits, with a true minus."""
    return f"{value:.4g}".replace("-", "−")


def interval(estimate: Interval | None) -> str:
    """Return "0.0013" with its interval, or a dash."""
    if estimate is None:
        return "–"
    if estimate.low == estimate.high:
        return figure(estimate.value)
    return f"{figure(estimate.value)} [{figure(estimate.low)}, {figure(estimate.high)}]"


def reference(gate: GateResult) -> str:
    """Return what full precision reaches by definition: cosine and ratio of 1, no drop or flip."""
    if gate.metric in _IDEAL or gate.metric.endswith("-ratio"):
        return "1"
    return "0" if gate.metric.endswith(("-drop", "flips")) else "–"


def percent(fraction: object) -> str:
    """Return 0.125 as "12.5 %"."""
    return f"{100 * float(fraction):.4g} %" if isinstance(fraction, int | float) else "–"


def size(count: object) -> str:
    """Return bytes for people, in powers of 1,000."""
    if not isinstance(count, int | float):
        return "–"
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return f"{count / least:.3g} {unit}"
    return f"{count:g} B"


def ago(seconds: float) -> str:
    """Say a length of time in its largest unit: "3 min"."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def when(moment: datetime | str | None) -> str:
    """Return the time to the second, in UTC."""
    if moment is None:
        return "–"
    time = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def picture(row: GateRow) -> Picture | None:
    """Return the gate's interval, budget and champion on one scale.

    None without an estimate or a budget.
    """
    gate, estimate = row.candidate, row.candidate.estimate
    if estimate is None or gate.reported:
        return None
    champion = row.champion.estimate if row.champion else None
    points = [estimate.low, estimate.high, gate.budget, *([champion.value] if champion else [])]
    left, right = min(points), max(points)
    room = (right - left or abs(right) or 1.0) * 0.12

    def place(value: float) -> float:
        return round(WIDTH * (value - left + room) / (right - left + 2 * room), 1)

    budget, least = place(gate.budget), gate.direction == "at least"
    return Picture(
        low=place(estimate.low),
        high=place(estimate.high),
        value=place(estimate.value),
        budget=budget,
        champion=place(champion.value) if champion else None,
        kept_from=budget if least else 0.0,
        kept_to=WIDTH if least else budget,
    )


SPARK_WIDTH, SPARK_HEIGHT = 120.0, 28.0
"""Units of a sparkline's picture."""


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A line of few figures beside their limit, across `SPARK_WIDTH` and `SPARK_HEIGHT`."""

    points: str  # of an SVG polyline
    end: tuple[float, float]
    limit: float | None  # where the limit of the newest figure lies; None outside of the picture
    words: str  # what it shows


def sparkline(figures: Sequence[tuple[str, float, float]]) -> Sparkline | None:
    """Return the picture of (time, value, limit), oldest first; None without any."""
    if not figures:
        return None
    values, limit = [value for _, value, _ in figures], figures[-1][2]
    low, high = min(*values, limit), max(*values, limit)
    room = (high - low) or 1.0
    across = SPARK_WIDTH - 6

    def place(number: int, value: float) -> tuple[float, float]:
        x = 3 + across * (number / (len(values) - 1) if len(values) > 1 else 1.0)
        return round(x, 1), round(SPARK_HEIGHT - 4 - (SPARK_HEIGHT - 8) * (value - low) / room, 1)

    places = [place(number, value) for number, value in enumerate(values)]
    words = f"fidelity of {len(values)} windows, now {figure(values[-1])}; limit {figure(limit)}"
    return Sparkline(" ".join(f"{x},{y}" for x, y in places), places[-1], place(0, limit)[1], words)
