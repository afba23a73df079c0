"""`python -m benchmarks.evidence [--quick] [--seeds N] [--page FILE]`: measure the map, print it, write its page."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.evidence.kinds import KIND_NAMES, KINDS
from benchmarks.evidence.page import as_markdown
from benchmarks.evidence.trial import SCHEMES, Cell, meet, open_scene


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every cell; a few minutes a seed and kind."""
    options = _options(arguments)
    console = Console(stderr=True)
    cells: list[Cell] = []
    page = ""
    for name in options.kinds or KINDS:
        kind = KINDS[name]()
        for seed in range(options.seeds):
            scene = open_scene(kind, SCHEMES, options.cases, seed)
            shifts = kind.shifts[:2] if options.quick else kind.shifts
            for shift in track(shifts, f"{kind.name}, seed {seed}", console=console, disable=not console.is_terminal):
                cells += meet(scene, shift)
        page = _page(cells, options)  # as soon as a kind is complete: an interrupted run loses only its last
    print(page)


def _page(cells: Sequence[Cell], options: argparse.Namespace) -> str:
    kinds = options.kinds or KINDS
    names = " ".join(name for name in kinds if any(cell.kind == KIND_NAMES[name] for cell in cells))
    command = f"python -m benchmarks.evidence {names} --seeds {options.seeds} --cases {options.cases}"
    page = as_markdown(cells, options.seeds, options.cases, command)
    if options.page:
        options.page.write_text(page, encoding="utf-8")
    return page


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks.evidence", description="What drift costs, and what each repair wins back."
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--quick", action="store_true", help="two shifts a kind, one seed, few cases")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cases", type=int, default=192, help="calibration requests, and held-out cases, a shift")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page, such as docs/evidence.md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.cases = 1, 24
    return options


if __name__ == "__main__":
    main()
