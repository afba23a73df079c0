"""Measure the map of what drift costs, and print it.

`python -m benchmarks.evidence [KIND...] [--workers N] [--keep FOLDER] [--page FILE]`
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import track

from benchmarks.evidence import real_model
from benchmarks.evidence.kinds.catalog import KINDS
from benchmarks.evidence.page import as_markdown
from benchmarks.evidence.spread import Piece, pieces, spread
from benchmarks.evidence.trial import Cell


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every cell.

    A piece takes some minutes on one core. There are 110 in all, which take hours on two cores.
    """
    options = _options(arguments)
    if options.kinds == [real_model.WORD]:
        command = f"python -m benchmarks.evidence {real_model.WORD}"
        if options.quick:
            command += " --quick"
        print(real_model.as_part(real_model.measure(options.quick), command))
        return
    console = Console(stderr=True)
    wanted = pieces(
        options.kinds or list(KINDS), options.seeds, options.cases, 2 if options.quick else None
    )
    results: dict[Piece, list[Cell]] = {}
    with TemporaryDirectory() as scratch:
        measured = spread(wanted, options.workers, options.keep or Path(scratch))
        for piece, cells in track(measured, "cells", len(wanted), console=console):
            results[piece] = cells
            if not console.is_terminal:
                console.print(
                    f"{len(results)} of {len(wanted)}: "
                    f"{piece.kind}, seed {piece.seed}, {piece.shift}"
                )
    page = _page([cell for piece in sorted(results) for cell in results[piece]], options)
    print(page)


def _page(cells: Sequence[Cell], options: argparse.Namespace) -> str:
    names = " ".join(options.kinds or KINDS)
    command = (
        f"python -m benchmarks.evidence {names} --seeds {options.seeds} --cases {options.cases}"
    )
    page = as_markdown(cells, options.seeds, options.cases, command)
    if options.page:
        options.page.write_text(page, encoding="utf-8")
    return page


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks.evidence", description="What drift costs, and what each repair wins back."
    )
    words = f"{', '.join(KINDS)}; or {real_model.WORD} alone, a part of its own"
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=words)
    parser.add_argument(
        "--quick", action="store_true", help="two shifts a kind, one seed, few cases"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--cases", type=int, default=192, help="calibration requests, and held-out cases, a shift"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the page, such as docs/evidence.md"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--workers",
        type=int,
        default=cores,
        help="processes of one core each; 1 uses all cores for one",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="cells measured so far: a second run goes on there",
    )
    options = parser.parse_args(arguments)
    if real_model.WORD in options.kinds and len(options.kinds) > 1:
        parser.error(f"{real_model.WORD} is measured alone: it takes the whole machine")
    unknown = sorted({*options.kinds} - {*KINDS, real_model.WORD})
    if unknown:
        parser.error(f"no kind is called {', '.join(unknown)}: allowed are {words}")
    if options.quick:
        options.seeds, options.cases = 1, 24
    return options


if __name__ == "__main__":
    main()
