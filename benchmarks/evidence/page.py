"""The map as a page for people."""

from collections.abc import Sequence

from benchmarks.evidence.aggregate import Row, headline
from tasks.records import Interval

_HEAD = """# What drift costs a quantized model, and what wins it back

Printed by `make evidence` ({seeds} seeds, {cases} calibration requests and {cases} held-out cases a cell; intervals are
95 % bootstraps over cases and seeds). The loss is 1 - cosine to full precision of embeddings, elsewhere the share of
answers or tokens that differ from full precision's. *Full precision* is its own quality before and after the shift:
where it falls, no quantization is to blame, and only retraining helps. *Won back* is the share of the shift's cost,
stale minus at home, that new scales alone remove. The rung is the first that keeps the model's budget.
"""


def as_markdown(found: Sequence[Row], seeds: int, cases: int) -> str:
    """The whole page."""
    lines = [_HEAD.format(seeds=seeds, cases=cases), "## In short", ""]
    lines += [
        f"- {kind}: recalibration alone wins back {value:.0%} of what a shift costs (median of {count} costly cells)."
        for kind, (value, count) in headline(found).items()
    ]
    for kind in sorted({row.kind for row in found}):
        lines += ["", f"## {kind.capitalize()}", "", *_table([row for row in found if row.kind == kind])]
    return "\n".join(lines) + "\n"


def _table(found: Sequence[Row]) -> list[str]:
    head = "| shift | scheme | full precision | at home | stale | recalibrated | won back | rung chosen | its loss |"
    return [head, "|---|---|---|---|---|---|---|---|---|", *map(_line, found)]


def _line(row: Row) -> str:
    moved = "–" if row.quality is None else f"{row.quality_home:.3f} → {row.quality:.3f}"
    again = "no range is fixed" if row.recalibrated is None else _loss(row.recalibrated)
    share = (
        "–" if row.won_back is None else f"{row.won_back.value:.0%} ({row.won_back.low:.0%} to {row.won_back.high:.0%})"
    )
    rungs = ", ".join(dict.fromkeys(row.rungs))
    return (
        f"| {row.shift} | {row.scheme} | {moved} | {row.home:.4f} | {_loss(row.stale)} | {again} | {share} | {rungs} "
        f"| {_loss(row.chosen)} |"
    )


def _loss(found: Interval) -> str:
    return f"{found.value:.4f} ({found.low:.4f}–{found.high:.4f})"
