"""The detectors over time: what each window's first figure was beside its limit, ready to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.drift.decision import DETECTORS
from tasks.records import Decision, DetectorResult, Finding, Health, PastDecision

WIDTH, HEIGHT = 600, 60
POINTS = 60
"""Windows that are drawn, the newest last."""


@dataclass(frozen=True, slots=True)
class PlottedWindow:
    """One window."""

    x: float  # in the drawing
    y: float
    health: Health
    text: str  # "layer conv1 0.31, limit 0.02"


@dataclass(frozen=True, slots=True)
class Trend:
    """One detector: value / limit of the finding that mattered most, by window; 1 is the limit."""

    detector: str
    points: tuple[PlottedWindow, ...]
    limit_y: float

    @property
    def line(self) -> str:
        """The points as SVG wants them."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


def leading(result: DetectorResult) -> Finding | None:
    """Return the finding that mattered most: the first that exceeded its limit, else the first."""
    return next(
        (finding for finding in result.findings if finding.exceeded),
        result.findings[0] if result.findings else None,
    )


def trends(past: Sequence[PastDecision], decision: Decision) -> tuple[Trend, ...]:
    """Return a drawing for every detector with figures, of the newest `POINTS` windows and this."""
    drawings = []
    for detector in DETECTORS:
        rows = [
            (item.health.get(detector), item.figures.get(detector)) for item in past[-POINTS + 1 :]
        ]
        for result in decision.results:
            first = leading(result)
            if result.detector == detector and first is not None:
                rows.append((result.health, (first.subject, first.value, first.limit)))
        points = [
            (health, figures)
            for health, figures in rows
            if health is not None and figures is not None
        ]
        if points and any(figures[2] for _, figures in points):
            drawings.append(_drawn(detector, points))
    return tuple(drawings)


def _drawn(detector: str, rows: Sequence[tuple[Health, tuple[str, float, float]]]) -> Trend:
    shares = [value / limit if limit else float(value > 0) for _, (_, value, limit) in rows]
    low, high = min(*shares, 1.0), max(*shares, 1.0)
    room = (high - low) or 1.0
    step = WIDTH / max(len(rows) - 1, 1)

    def height(share: float) -> float:
        return HEIGHT - 6 - (HEIGHT - 12) * (share - low) / room

    points = tuple(
        PlottedWindow(
            place * step, height(share), health, f"{subject} {value:.4g}, limit {limit:.4g}"
        )
        for place, (share, (health, (subject, value, limit))) in enumerate(
            zip(shares, rows, strict=True)
        )
    )
    return Trend(detector, points, height(1.0))
