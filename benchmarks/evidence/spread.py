"""The map in pieces, measured by several processes.

Pieces are kept, so that a run that was interrupted goes on.
"""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from benchmarks.evidence.kinds.catalog import KINDS
from benchmarks.evidence.kinds.model_kind import ModelKind
from benchmarks.evidence.trial import SCHEMES, Cell, meet, open_scene
from benchmarks.harness import processes


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """Some champions of one kind and seed under one shift."""

    kind: str
    seed: int
    shift: str
    schemes: tuple[str, ...]
    cases: int

    @property
    def file(self) -> str:
        """Return the name of the file that keeps its cells."""
        which = "all" if self.schemes == SCHEMES else "+".join(self.schemes)
        return f"{self.kind}-{self.cases}-{self.seed}-{self.shift.replace(' ', '-')}-{which}.pickle"


def pieces(kinds: Sequence[str], seeds: int, cases: int, shifts: int | None = None) -> list[Piece]:
    """Return the pieces, the dearest first.

    A shift that is drawn anew for every champion is one piece for each champion.
    """
    ranked: list[tuple[bool, Piece]] = []
    for name in kinds:
        for shift in _kind(name).shifts[:shifts]:
            apart = shift.variants > 1
            for schemes in [(scheme,) for scheme in SCHEMES] if apart else [SCHEMES]:
                ranked += [
                    (not apart, Piece(name, seed, shift.name, schemes, cases))
                    for seed in range(seeds)
                ]
    return [piece for _, piece in sorted(ranked)]


def spread(
    wanted: Sequence[Piece], workers: int, folder: Path
) -> Iterator[tuple[Piece, list[Cell]]]:
    """Yield the cells of every piece as soon as they are there.

    What the folder holds already is not measured again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for piece in wanted:
        if (folder / piece.file).exists():
            yield piece, pickle.loads((folder / piece.file).read_bytes())  # written below
        else:
            missing.append(piece)
    yield from processes.spread(partial(_measured, folder), missing, workers)


def _measured(folder: Path, piece: Piece) -> list[Cell]:
    kind = _kind(piece.kind)
    (shift,) = [shift for shift in kind.shifts if shift.name == piece.shift]
    cells = meet(open_scene(kind, piece.schemes, piece.cases, piece.seed), shift)
    unfinished = folder / f".{piece.file}"
    unfinished.write_bytes(pickle.dumps(cells))
    unfinished.replace(folder / piece.file)
    return cells


@cache
def _kind(name: str) -> ModelKind:
    return KINDS[name]()
