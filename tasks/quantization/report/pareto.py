"""What each candidate reached, drawn.

Loss against size and latency, with the Pareto front that no candidate beats.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # libraries that draw take long to load: each is loaded by what draws
    import plotly.graph_objects as go
    from matplotlib.axes import Axes

PASSED, REFUSED = "#1a7f37", "#8c959f"
_RESOLUTION = 120


@dataclass(frozen=True, slots=True)
class CandidateFigures:
    """One candidate, as it was measured.

    Ratios are to full precision, None where nothing was measured.
    """

    name: str
    passed: bool
    chosen: bool
    reason: str  # why it did not pass, or what it reached
    loss: float | None  # of the spec's first quality metric
    size: float | None
    latency: float | None
    peak_memory: float | None
    metrics: Mapping[str, float]  # every gate's estimate


@dataclass(frozen=True, slots=True)
class Limits:
    """What is plotted against what, and how much is allowed."""

    loss: str  # "1 - cosine"
    loss_budget: float
    size_budget: float
    latency_budget: float


Point = tuple[CandidateFigures, float, float]
"""A candidate, its cost and its loss."""
_COSTS: Sequence[tuple[str, Callable[[CandidateFigures], float | None]]] = (
    ("size / full precision", lambda figures: figures.size),
    ("latency / full precision", lambda figures: figures.latency),
)


def points(
    candidates: Sequence[CandidateFigures], cost: Callable[[CandidateFigures], float | None]
) -> list[Point]:
    """Return the candidates that have both figures."""
    return [
        (candidate, spent, candidate.loss)
        for candidate in candidates
        if (spent := cost(candidate)) is not None and candidate.loss is not None
    ]


def undominated(reached: Sequence[Point]) -> list[Point]:
    """Return those than which none is both no dearer and no worse, cheapest first."""
    best: list[Point] = []
    for point in sorted(reached, key=lambda candidate: (candidate[1], candidate[2])):
        if not best or point[2] < best[-1][2]:
            best.append(point)
    return best


def cheapest(candidates: Sequence[CandidateFigures]) -> int | None:
    """Choose among the candidates that passed to promote: by latency, then size, then order.

    None when none passed.

    What has no latency (it was not judged by it) comes last.
    """
    passed = [place for place, candidate in enumerate(candidates) if candidate.passed]

    def cost(place: int) -> tuple[float, float]:
        candidate = candidates[place]
        return (
            float("inf") if candidate.latency is None else candidate.latency,
            float("inf") if candidate.size is None else candidate.size,
        )

    return min(passed, key=cost, default=None)


def draw_png(title: str, candidates: Sequence[CandidateFigures], limits: Limits) -> bytes:
    """Draw two panels as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=_RESOLUTION, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    budgets = (limits.size_budget, limits.latency_budget)
    for place, ((label, cost), budget) in enumerate(zip(_COSTS, budgets, strict=True)):
        panel = figure.add_subplot(1, 2, place + 1)
        _panel(panel, points(candidates, cost), budget, limits.loss_budget)
        panel.set(xlabel=label, ylabel=limits.loss if place == 0 else "")
    out = BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def draw_html(title: str, candidates: Sequence[CandidateFigures], limits: Limits) -> bytes:
    """Draw the same, interactive, with everything inside.

    Hovering names the candidate and why it was refused.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, shared_yaxes=True)
    budgets = (limits.size_budget, limits.latency_budget)
    for place, ((label, cost), budget) in enumerate(zip(_COSTS, budgets, strict=True), start=1):
        reached = points(candidates, cost)
        best = undominated(reached)
        line = go.Scatter(
            x=[candidate[1] for candidate in best],
            y=[candidate[2] for candidate in best],
            mode="lines",
            name="front",
        )
        figure.add_trace(line, row=1, col=place)
        figure.add_trace(_markers(reached), row=1, col=place)
        figure.add_vline(x=budget, line_dash="dot", row=1, col=place)
        figure.add_hline(y=limits.loss_budget, line_dash="dot", row=1, col=place)
        figure.update_xaxes(title_text=label, row=1, col=place)
    figure.update_yaxes(title_text=limits.loss, row=1, col=1)
    figure.update_layout(title=title, showlegend=False, template="plotly_white")
    page: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return page.encode()


def _panel(panel: "Axes", reached: Sequence[Point], cost_budget: float, loss_budget: float) -> None:
    best = undominated(reached)
    panel.plot(
        [candidate[1] for candidate in best],
        [candidate[2] for candidate in best],
        color="#54aeff",
        zorder=1,
    )
    for candidate, cost, loss in reached:
        colour, marker = (
            (PASSED if candidate.passed else REFUSED),
            ("*" if candidate.chosen else "o"),
        )
        face = colour if candidate.passed else "white"
        panel.scatter(
            cost,
            loss,
            s=140 if candidate.chosen else 45,
            marker=marker,
            color=face,
            edgecolor=colour,
            zorder=2,
        )
        panel.annotate(
            candidate.name,
            (cost, loss),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
            color=colour,
        )
    panel.axvline(cost_budget, linestyle=":", color="#57606a")
    panel.axhline(loss_budget, linestyle=":", color="#57606a")
    panel.grid(alpha=0.2)


def _markers(reached: Sequence[Point]) -> "go.Scatter":
    import plotly.graph_objects as go

    return go.Scatter(
        x=[cost for _, cost, _ in reached],
        y=[loss for _, _, loss in reached],
        text=[candidate.name for candidate, _, _ in reached],
        hovertext=[f"{candidate.name}: {candidate.reason}" for candidate, _, _ in reached],
        mode="markers+text",
        textposition="top center",
        marker={
            "color": [PASSED if candidate.passed else REFUSED for candidate, _, _ in reached],
            "symbol": [
                "star" if candidate.chosen else "circle" if candidate.passed else "circle-open"
                for candidate, _, _ in reached
            ],
            "size": [16 if candidate.chosen else 9 for candidate, _, _ in reached],
        },
        name="candidates",
    )
