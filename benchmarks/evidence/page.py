"""The map as a page for people."""

from collections.abc import Sequence
from textwrap import wrap

from benchmarks.evidence.aggregate import ShiftResult, headline, rows
from benchmarks.evidence.regret import as_lines, regret
from benchmarks.evidence.trial import Cell
from tasks.records import Interval

_HEAD = """# What drift costs a quantized model, and what wins it back

Printed by `{command}`: {seeds} seeds, {cases} calibration requests and {cases} held-out cases a \
cell. Intervals are 95 % bootstraps over cases and seeds.

The loss is 1 - cosine to full precision of embeddings. Elsewhere it is the fraction of answers or
tokens that differ from full precision's. *Full precision* is its own quality before and after the
shift: where it falls, no quantization is to blame, and only retraining helps. *Won back* is the
part of the shift's cost, stale minus at home, that new scales alone remove. The recipe chosen is
the first step of the ladder that keeps the model's budget.
"""
_REGRET = """## Regret: the loop's decision against an oracle

Each cell's window goes through the detectors (weights, input, range, fidelity, control) and the
decision table. Where it asks for a build, the ladder is climbed from `recalibrate` on; full
precision is its last step. The oracle takes the action that loses least on held-out cases: none
beats full precision, which loses nothing. Losses count as far as they exceed the model's budget.
Regret is (ours - best) / (stale - best), each summed over the cells.

The map recalibrates champions with smoothing as any other. The ladder itself begins with `resmooth`
there, which is the map's `int8-smooth` under the champion's placement: where `int8-smooth` is the
recipe chosen, the ladder now has it first.

A build is needless where the stale champion kept the budget. After a weight update the champion
still answers with the old weights. A build is then due whatever that costs, since the new weights
are what its owner wants served, and is counted apart.
"""
_COLUMNS = 100


def as_markdown(cells: Sequence[Cell], seeds: int, cases: int, command: str) -> str:
    """Return the whole page of a map that `command` measured."""
    map_rows = rows(cells)
    lines = [_HEAD.format(command=command, seeds=seeds, cases=cases), "## In short", ""]
    lines += [
        f"- {kind}: recalibration alone wins back {value:.0%} of what a shift costs "
        f"(median of {count} costly cells)."
        for kind, (value, count) in headline(map_rows).items()
    ]
    lines += ["", _REGRET, *as_lines(regret([cell.choice for cell in cells])), ""]
    for kind in sorted({cell.kind for cell in cells}):
        regret_of_kind = regret([cell.choice for cell in cells if cell.kind == kind])
        lines += [f"### {kind.capitalize()}", "", *as_lines(regret_of_kind), ""]
    for kind in sorted({row.kind for row in map_rows}):
        table = _table([row for row in map_rows if row.kind == kind])
        lines += ["", f"## {kind.capitalize()}", "", *table]
    return "\n".join(wrapped("\n".join(lines))) + "\n"


def wrapped(page: str) -> list[str]:
    """Break the lines of prose; a table's stay, and a bullet's next line is indented."""
    lines = []
    for line in page.splitlines():
        indent = "  " if line.startswith("- ") else ""
        broken = wrap(line, _COLUMNS, subsequent_indent=indent, break_on_hyphens=False)
        lines += [line] if line.startswith("|") else broken or [""]
    return lines


def _table(map_rows: Sequence[ShiftResult]) -> list[str]:
    head = (
        "| shift | scheme | full precision | at home | stale | recalibrated | won back "
        "| recipe chosen | its loss |"
    )
    return [head, "|---|---|---|---|---|---|---|---|---|", *map(_line, map_rows)]


def _line(row: ShiftResult) -> str:
    moved = "–" if row.quality is None else f"{row.quality_home:.3f} → {row.quality:.3f}"
    again = "no range is fixed" if row.recalibrated is None else _loss(row.recalibrated)
    won_back = (
        "–"
        if row.won_back is None
        else f"{row.won_back.value:.0%} ({row.won_back.low:.0%} to {row.won_back.high:.0%})"
    )
    recipes = ", ".join(dict.fromkeys(row.candidates))
    return (
        f"| {row.shift} | {row.scheme} | {moved} | {row.home:.4f} | {_loss(row.stale)} | {again} "
        f"| {won_back} | {recipes} | {_loss(row.chosen)} |"
    )


def _loss(loss: Interval) -> str:
    return f"{loss.value:.4f} ({loss.low:.4f}–{loss.high:.4f})"
