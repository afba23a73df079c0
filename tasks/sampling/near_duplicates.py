"""Inputs that say the same again teach no range: of such, the first is kept."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from tasks.records import Request, Tensor

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE = 4
"""Characters: words would fail Thai, Chinese and Japanese, which put no space between them."""
HASHES = 64
LEVELS = 16
"""Steps between 0 and a tensor's largest magnitude that are told apart; octaves of that magnitude have eight."""

_BLANKS = re.compile(r"\s+")


def distinct(requests: Sequence[Request], similarity: float) -> tuple[Request, ...]:
    """Those that no earlier one resembles, in their order.

    Texts: an estimated Jaccard similarity of their character shingles of at least `similarity` (Broder, "On the
    resemblance and containment of documents", 1997), found by banded MinHash. Tensors: equal once rounded to `LEVELS`
    steps of their own peak, and within an eighth of an octave of it.
    """
    if similarity >= 1:
        return tuple(requests)
    from datasketch import MinHashLSH  # loads half of SciPy

    index = MinHashLSH(threshold=similarity, num_perm=HASHES)
    sketches: dict[int, MinHash] = {}
    hashes: set[str] = set()
    kept = []
    for number, request in enumerate(requests):
        if isinstance(request.payload, str):
            sketch = _sketch(request.payload)
            if any(sketch.jaccard(sketches[other]) >= similarity for other in index.query(sketch)):
                continue
            index.insert(number, sketch)
            sketches[number] = sketch
        else:
            coarse = _coarse(request.payload)
            if coarse in hashes:
                continue
            hashes.add(coarse)
        kept.append(request)
    return tuple(kept)


def _sketch(text: str) -> MinHash:
    from datasketch import MinHash

    folded = _BLANKS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    shingles = {
        folded[start : start + SHINGLE] for start in range(max(len(folded) - SHINGLE + 1, 1))
    }
    sketch = MinHash(num_perm=HASHES, seed=1)
    sketch.update_batch([shingle.encode(errors="surrogatepass") for shingle in sorted(shingles)])
    return sketch


def _coarse(tensor: Tensor) -> str:
    peak = float(np.abs(tensor).max(initial=0.0))
    if not peak or not np.isfinite(peak):
        return sha256(f"{tensor.shape}:{peak}".encode()).hexdigest()
    levels = np.rint(tensor / np.float32(peak) * LEVELS).astype(np.int8)
    octave = int(np.floor(np.log2(peak) * 8))
    return sha256(f"{tensor.shape}:{octave}:".encode() + levels.tobytes()).hexdigest()
