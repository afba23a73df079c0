"""A recording in chunks that a recognizer hears one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FRAME_S = 0.02
"""Seconds over which loudness is measured."""
SEARCHED = 0.4
"""Share of a chunk, its end, in which the quietest place to cut is searched."""


def chunks_of(wave: NDArray[np.float32], rate: int, longest: int) -> Iterator[NDArray[np.float32]]:
    """Yield a recording [samples] in pieces of at most `longest` samples, in order.

    Each but the last ends where its last part is quietest, so that few words are cut.
    """
    start, frame = 0, max(1, round(FRAME_S * rate))
    while len(wave) - start > longest:
        end = start + _cut(wave[start : start + longest], frame)
        yield wave[start:end]
        start = end
    if start < len(wave):
        yield wave[start:]


def _cut(piece: NDArray[np.float32], frame: int) -> int:
    """Return where a piece is quietest near its end: in the middle of a frame, in samples."""
    begin = int(len(piece) * (1 - SEARCHED))
    frames = (len(piece) - begin) // frame
    if not frames:
        return len(piece)
    tail = piece[begin : begin + frames * frame].reshape(frames, frame)
    loudness = np.square(tail).sum(axis=1)
    # Of frames that are equally quiet the last, as a longer chunk hears more.
    quietest = frames - 1 - int(np.argmin(loudness[::-1]))
    return max(1, begin + quietest * frame + frame // 2)
