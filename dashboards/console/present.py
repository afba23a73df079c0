"""How figures and times read on a page: pure functions, used as template filters."""

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
        """Width of the interval; never too thin to see."""
        return max(self.high - self.low, 2.0)


def figure(value: float) -> str:
    """Four significant digits, with a true minus."""
    return f"{value:.4g}".replace("-", "−")


def interval(found: Interval | None) -> str:
    """ "0.0013" with its interval, or a dash."""
    if found is None:
        return "–"
    if found.low == found.high:
        return figure(found.value)
    return f"{figure(found.value)} [{figure(found.low)}, {figure(found.high)}]"


def reference(gate: GateResult) -> str:
    """What full precision reaches by definition: a cosine and a ratio of 1, no drop, no flip."""
    if gate.metric in _IDEAL or gate.metric.endswith("-ratio"):
        return "1"
    return "0" if gate.metric.endswith(("-drop", "flips")) else "–"


def percent(share: object) -> str:
    """0.125 -> "12.5 %"."""
    return f"{100 * float(share):.4g} %" if isinstance(share, int | float) else "–"


def size(count: object) -> str:
    """Bytes for people, in powers of 1,000."""
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
    """To the second, in UTC."""
    if moment is None:
        return "–"
    found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return found.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def picture(row: GateRow) -> Picture | None:
    """The gate's interval, budget and champion on one scale; None without an estimate or a budget."""
    gate, found = row.candidate, row.candidate.estimate
    if found is None or gate.reported:
        return None
    champion = row.champion.estimate if row.champion else None
    points = [found.low, found.high, gate.budget, *([champion.value] if champion else [])]
    left, right = min(points), max(points)
    room = (right - left or abs(right) or 1.0) * 0.12

    def place(value: float) -> float:
        return round(WIDTH * (value - left + room) / (right - left + 2 * room), 1)

    budget, least = place(gate.budget), gate.direction == "at least"
    return Picture(
        low=place(found.low),
        high=place(found.high),
        value=place(found.value),
        budget=budget,
        champion=place(champion.value) if champion else None,
        kept_from=budget if least else 0.0,
        kept_to=WIDTH if least else budget,
    )
