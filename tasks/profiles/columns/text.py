"""What texts look like, for a whole Arrow array at once.

Length, kinds of letters, main script, hashed n-grams: the same figures as
`tasks.drift.detectors.features` gives one text at a time, for any writing system, without a model.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import BadInput

NO_SCRIPT = "none"
LOOKED_AT = 20_000
"""Characters of one text that fractions are taken of."""
EMBEDDED = 2_000
"""Characters of one text that its n-grams are taken of."""
WIDTH = 128
"""Of a text's embedding: n-grams of 1, 2 and 3 characters, hashed with a sign.

Weinberger and others, 2009.
"""
_ROWS, _CHARACTERS = 4096, 1 << 18  # looked at together: they stay in the cache
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
_OTHER, _DIGIT, _PUNCTUATION, _ASCII, _NAMELESS = range(5)


@dataclass(frozen=True, slots=True)
class TextColumns:
    """One value a text."""

    numbers: dict[
        str, NDArray[np.float64]
    ]  # length, and fractions of non-ASCII letters, digits and punctuation
    script: pa.DictionaryArray


def describe(texts: pa.Array) -> TextColumns:
    """Describe texts without missing ones, [n]; raises `BadInput` on bytes that are not UTF-8."""
    fractions, scripts = [np.empty((0, 3))], [np.empty(0, np.int32)]
    for letters, rows, count in _pieces(texts, LOOKED_AT):
        piece = _kinds(letters, rows, count)
        fractions.append(piece[0])
        scripts.append(piece[1])
    lengths = pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.float64)
    columns = zip(
        ("non-ASCII letters", "digits", "punctuation"), np.concatenate(fractions).T, strict=True
    )
    names = pa.array([NO_SCRIPT, *_classes()[1]])
    return TextColumns(
        {"length": lengths, **dict(columns)},
        pa.DictionaryArray.from_arrays(pa.array(np.concatenate(scripts)), names),
    )


def embed(texts: pa.Array) -> Iterator[NDArray[np.float64]]:
    """Yield signed counts of hashed character n-grams, piece by piece, [some rows, WIDTH].

    They are whole numbers.
    """
    for letters, rows, count in _pieces(pc.utf8_lower(texts), EMBEDDED):
        yield _ngrams(letters, rows, count)


def _pieces(
    texts: pa.Array, longest: int
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64], int]]:
    """Yield code points of some texts, the row of each, and the number of rows."""
    lengths = pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)
    if lengths.max(initial=0) > longest:
        texts, lengths = pc.utf8_slice_codeunits(texts, 0, longest), np.minimum(lengths, longest)
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = ends[start] - lengths[start]
        fits = int(np.searchsorted(ends, before + _CHARACTERS, side="right"))
        stop = min(max(fits, start + 1), start + _ROWS)
        part = lengths[start:stop]
        yield _code_points(texts[start:stop]), np.repeat(np.arange(len(part)), part), len(part)
        start = stop


def _code_points(texts: pa.Array) -> NDArray[np.uint32]:
    large = pa.types.is_large_string(texts.type)
    _, starts, content = texts.buffers()
    if content is None or not len(texts):
        return np.empty(0, np.uint32)
    offsets = np.frombuffer(starts, np.int64 if large else np.int32)[
        texts.offset : texts.offset + len(texts) + 1
    ]
    try:
        decoded = bytes(content[int(offsets[0]) : int(offsets[-1])]).decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"a text is not UTF-8 ({error.reason}): import the traffic again") from error
    return np.frombuffer(decoded.encode("utf-32-le"), np.uint32)


def _kinds(
    letters: NDArray[np.uint32], rows: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return fractions of non-ASCII letters, digits and punctuation, [count, 3].

    And the number of the main script, [count].
    """
    table, scripts = _classes()
    codes = table[letters]
    present = np.flatnonzero(np.bincount(codes, minlength=_NAMELESS + 1 + len(scripts)))
    narrow = np.zeros(256, np.int64)
    narrow[present] = np.arange(len(present))
    width = max(len(present), 1)
    by_row = np.bincount(rows * width + narrow[codes], minlength=count * width).reshape(
        count, width
    )
    tally = np.zeros((count, _NAMELESS + 1 + len(scripts)), np.int64)
    tally[:, present] = by_row[:, : len(present)]
    size = np.maximum(tally.sum(axis=1), 1)
    foreign = tally[:, _NAMELESS:].sum(axis=1)
    fractions = (
        np.stack([foreign, tally[:, _DIGIT], tally[:, _PUNCTUATION]], axis=1) / size[:, None]
    )
    by_script = tally[:, _NAMELESS + 1 :]
    by_script[:, scripts.index("LATIN")] += tally[:, _ASCII]
    main = (
        by_script.argmax(axis=1) + 1
    )  # the first of equals, and scripts are in the order of their names
    return fractions, np.where(by_script.max(axis=1) > 0, main, 0).astype(np.int32)


@cache
def _classes() -> tuple[NDArray[np.uint8], list[str]]:
    """Return the class of every code point, [1114112], and the scripts' names.

    Class 5 is the first of them.
    """
    table = np.zeros(sys.maxunicode + 1, np.uint8)
    first_words: dict[int, str] = {}
    for point in range(sys.maxunicode + 1):
        letter = chr(point)
        category = unicodedata.category(letter)[0]
        if category == "L":
            first_words[point] = unicodedata.name(letter, NO_SCRIPT).split(" ")[0].split("-")[0]
        elif category in "NPS":
            table[point] = _DIGIT if category == "N" else _PUNCTUATION
    scripts = sorted(set(first_words.values()) - {NO_SCRIPT})
    numbers = {name: _NAMELESS + 1 + index for index, name in enumerate(scripts)} | {
        NO_SCRIPT: _NAMELESS
    }
    for point, name in first_words.items():
        table[point] = _ASCII if point < 128 else numbers[name]
    return table, scripts


def _ngrams(
    letters: NDArray[np.uint32], rows: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    tally = np.zeros(count * 2 * WIDTH, np.int64)
    with np.errstate(over="ignore"):
        hashes = np.zeros(len(letters), np.uint64)
        for size, multiplier in enumerate(_MULTIPLIERS):
            following = letters[size:].astype(np.uint64) + np.uint64(1)
            hashes = hashes[: len(following)] * np.uint64(31) + following
            hashes ^= hashes >> np.uint64(29)
            mixed = (hashes * np.uint64(multiplier)) >> np.uint64(
                56
            )  # 8 bits: a sign and one of 128 places
            within = rows[size:] == rows[: len(following)]  # no n-gram spans two texts
            places = (rows[size:] * (2 * WIDTH) + mixed.astype(np.int64))[within]
            tally += np.bincount(places, minlength=len(tally))
            hashes *= np.uint64(_MULTIPLIERS[0])
    signed = tally.reshape(count, 2, WIDTH)
    return (signed[:, 0] - signed[:, 1]).astype(np.float64)
