"""Inputs that say the same again teach no range: of such, the first is distinct_requests."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.payloads import fingerprint
from tasks.records import Payload, Request

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE = 4
"""Characters: words would fail Thai, Chinese and Japanese, which put no space between them."""
HASHES = 64
STEPS = 16
"""Between 0 and a tensor's amax that are told apart; octaves of that amax have eight."""

_BLANKS = re.compile(r"\s+")


def distinct(requests: Sequence[Request], similarity: float) -> tuple[Request, ...]:
    """Return those that no earlier one resembles, in their order.

    Texts: an estimated Jaccard similarity of their character shingles of at least `similarity`,
    found by banded MinHash (Broder, "On the resemblance and containment of documents", 1997).
    Tensors: equal once rounded to `STEPS` steps of their own amax, and within an eighth of an
    octave of it.
    """
    if similarity >= 1:
        return tuple(requests)
    from datasketch import MinHashLSH  # loads half of SciPy

    index = MinHashLSH(threshold=similarity, num_perm=HASHES)
    sketches: dict[int, MinHash] = {}
    hashes: set[str] = set()
    distinct_requests = []
    for number, request in enumerate(requests):
        if isinstance(request.payload, str):
            sketch = _sketch(request.payload)
            if any(sketch.jaccard(sketches[other]) >= similarity for other in index.query(sketch)):
                continue
            index.insert(number, sketch)
            sketches[number] = sketch
        else:
            coarse = _coarse_payload(request.payload)
            if coarse in hashes:
                continue
            hashes.add(coarse)
        distinct_requests.append(request)
    return tuple(distinct_requests)


def _sketch(text: str) -> MinHash:
    from datasketch import MinHash

    folded = _BLANKS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    shingles = {
        folded[start : start + SHINGLE] for start in range(max(len(folded) - SHINGLE + 1, 1))
    }
    sketch = MinHash(num_perm=HASHES, seed=1)
    sketch.update_batch([shingle.encode(errors="surrogatepass") for shingle in sorted(shingles)])
    return sketch


def _coarse_payload(payload: Payload) -> str:
    """Return what near-duplicates share; integers are equal or not."""
    if not isinstance(payload, Mapping):
        return _coarse(np.asarray(payload))
    return repr(
        [
            (name, _coarse(tensor) if tensor.dtype.kind == "f" else fingerprint({name: tensor}))
            for name, tensor in sorted(payload.items())
        ]
    )


def _coarse(values: NDArray[np.generic]) -> str:
    tensor = np.asarray(values, np.float32)
    amax = float(np.abs(tensor).max(initial=0.0))
    if not amax or not np.isfinite(amax):
        return sha256(f"{tensor.shape}:{amax}".encode()).hexdigest()
    steps = np.rint(tensor / np.float32(amax) * STEPS).astype(np.int8)
    octave = int(np.floor(np.log2(amax) * 8))
    return sha256(f"{tensor.shape}:{octave}:".encode() + steps.tobytes()).hexdigest()
