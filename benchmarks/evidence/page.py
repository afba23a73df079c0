"""The map as a page for people."""

from collections.abc import Sequence

from benchmarks.evidence.aggregate import Row, headline, rows
from benchmarks.evidence.regret import as_lines, regret
from benchmarks.evidence.trial import Cell
from tasks.records import Interval

_HEAD = """# What drift costs a quantized model, and what wins it back

Printed by `{command}`: {seeds} seeds, {cases} calibration
requests and {cases} held-out cases a cell; intervals are 95 % bootstraps over cases and seeds.

The loss is 1 - cosine to full precision of embeddings, elsewhere the share of answers or tokens that differ from full
precision's. *Full precision* is its own quality before and after the shift: where it falls, no quantization is to
blame, and only retraining helps. *Won back* is the share of the shift's cost, stale minus at home, that new scales
alone remove. The rung is the first that keeps the model's budget.
"""
_REGRET = """## Regret: the loop's decision against an oracle

Each cell's window goes through the lenses (weights, input, range, fidelity, control) and the decision table; where it
asks for a build, the ladder is climbed from `recalibrate` on, and full precision is its last rung. The oracle takes
the action that loses least on held-out cases: none beats full precision, which loses nothing. Losses count as far as
they exceed the model's budget: regret is (ours - best) / (stale - best), each summed over the cells. A build is
needless where the stale champion kept the budget. After a weight update the champion still answers with the old
weights; a build is then due whatever that costs, since the new weights are what its owner wants served, and is
counted apart.
"""


def as_markdown(cells: Sequence[Cell], seeds: int, cases: int, command: str) -> str:
    """The whole page."""
    found = rows(cells)
    lines = [_HEAD.format(command=command, seeds=seeds, cases=cases), "## In short", ""]
    lines += [
        f"- {kind}: recalibration alone wins back {value:.0%} of what a shift costs (median of {count} costly cells)."
        for kind, (value, count) in headline(found).items()
    ]
    lines += ["", _REGRET, *as_lines(regret([cell.choice for cell in cells])), ""]
    for kind in sorted({cell.kind for cell in cells}):
        one = regret([cell.choice for cell in cells if cell.kind == kind])
        lines += [f"### {kind.capitalize()}", "", *as_lines(one), ""]
    for kind in sorted({row.kind for row in found}):
        lines += [
            "",
            f"## {kind.capitalize()}",
            "",
            *_table([row for row in found if row.kind == kind]),
        ]
    return "\n".join(lines) + "\n"


def _table(found: Sequence[Row]) -> list[str]:
    head = "| shift | scheme | full precision | at home | stale | recalibrated | won back | rung chosen | its loss |"
    return [head, "|---|---|---|---|---|---|---|---|---|", *map(_line, found)]


def _line(row: Row) -> str:
    moved = "–" if row.quality is None else f"{row.quality_home:.3f} → {row.quality:.3f}"
    again = "no range is fixed" if row.recalibrated is None else _loss(row.recalibrated)
    share = (
        "–"
        if row.won_back is None
        else f"{row.won_back.value:.0%} ({row.won_back.low:.0%} to {row.won_back.high:.0%})"
    )
    rungs = ", ".join(dict.fromkeys(row.rungs))
    return (
        f"| {row.shift} | {row.scheme} | {moved} | {row.home:.4f} | {_loss(row.stale)} | {again} | {share} | {rungs} "
        f"| {_loss(row.chosen)} |"
    )


def _loss(found: Interval) -> str:
    return f"{found.value:.4f} ({found.low:.4f}–{found.high:.4f})"
