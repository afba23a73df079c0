"""The Pareto front of mixed precision, drawn.

What every placement worth having loses, and how many weights it keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from infra.canonical import Json
from tasks.quantization.sensitivity.mixed_precision import PrecisionPlacement

_X, _Y = "weights of the sites kept in floating point, share", "sum of the quantized sites' losses"
_RESOLUTION = 120


def documented(front: Sequence[PrecisionPlacement]) -> list[Json]:
    """Return the Pareto front as a candidate's facts hold it."""
    return [
        {"kept": list(point.kept), "loss": point.loss, "weights": point.cost} for point in front
    ]


def draw_placements(
    title: str, front: Sequence[PrecisionPlacement], kept: Sequence[str]
) -> dict[str, bytes]:
    """Draw `placements.png` and an interactive `placements.html`.

    With the placement at hand marked.

    Empty below two.
    """
    if len(front) < 2:
        return {}
    full_cost = max(1, front[-1].cost)
    shares, losses = [point.cost / full_cost for point in front], [point.loss for point in front]
    here = [place for place, point in enumerate(front) if set(point.kept) == set(kept)]
    return {
        "placements.png": _png(title, shares, losses, here),
        "placements.html": _html(title, front, shares, losses, here),
    }


def _png(
    title: str, shares: Sequence[float], losses: Sequence[float], here: Sequence[int]
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), dpi=_RESOLUTION, layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.add_subplot()
    panel.plot(shares, losses, marker="o", color="#54aeff", markersize=3)
    panel.scatter(
        [shares[place] for place in here],
        [losses[place] for place in here],
        color="#1a7f37",
        zorder=3,
    )
    panel.set(title=title, xlabel=_X, ylabel=_Y)
    out = BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _html(
    title: str,
    front: Sequence[PrecisionPlacement],
    shares: Sequence[float],
    losses: Sequence[float],
    here: Sequence[int],
) -> bytes:
    import plotly.graph_objects as go

    hover = ["<br>".join(point.kept) or "every site quantized" for point in front]
    figure = go.Figure(
        go.Scatter(x=list(shares), y=list(losses), mode="lines+markers", hovertext=hover)
    )
    marked = go.Scatter(
        x=[shares[place] for place in here], y=[losses[place] for place in here], mode="markers"
    )
    figure.add_trace(
        marked.update(
            marker={"size": 12, "color": "#1a7f37"}, hovertext=[hover[place] for place in here]
        )
    )
    figure.update_layout(
        title=title, showlegend=False, template="plotly_white", xaxis_title=_X, yaxis_title=_Y
    )
    page: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return page.encode()
