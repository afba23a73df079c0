"""XXH64 of every string of an Arrow array at once.

The same 64 bits that `xxhash.xxh64_intdigest` gives for one. Keys of equal length are hashed side
by side, a few nanoseconds each. Specification of the function:
https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from infra.errors import BadInput

Words = NDArray[np.uint64]
_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(prime)
    for prime in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)
_SEEDS = 2**64
_FEW = 32  # rows of one length below which one library call each is faster
_LONG = 256  # bytes: longer strings rarely share their length
_CHUNK = 8192  # rows whose words stay in the cache


def hash64(values: pa.Array, seed: int = 0) -> Words:
    """Return one hash a string or binary value, [rows].

    Raises:
        BadInput: A value is missing.
    """
    if values.null_count:
        raise BadInput(
            f"{values.null_count} of {len(values)} keys are missing: every request needs an id"
        )
    data, offsets = _buffers(values)
    lengths = np.diff(offsets)
    if not len(lengths):
        return np.empty(0, np.uint64)
    if lengths[0] <= _LONG and (lengths == lengths[0]).all():
        flat = data[offsets[0] : offsets[-1]].reshape(len(lengths), -1)
        return _in_chunks(flat, seed)
    return _by_length(data, offsets[:-1], lengths, seed)


def _buffers(values: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the bytes, and where each value begins and the last one ends."""
    large = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    _, starts, content = values.buffers()
    if starts is None or not len(values):
        return np.empty(0, np.uint8), np.zeros(len(values) + 1, np.int64)
    offsets = np.frombuffer(starts, np.int64 if large else np.int32)[
        values.offset : values.offset + len(values) + 1
    ]
    data = np.frombuffer(content, np.uint8) if content is not None else np.empty(0, np.uint8)
    return data, offsets.astype(np.int64)


def _by_length(
    data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64], seed: int
) -> Words:
    result = np.empty(len(starts), np.uint64)
    order = np.argsort(lengths, kind="stable")
    cuts = np.flatnonzero(np.diff(lengths[order])) + 1
    for rows in np.split(order, cuts):
        length = int(lengths[rows[0]])
        if len(rows) < _FEW or length > _LONG:
            hashes = [
                xxh64_intdigest(data[starts[row] : starts[row] + length].data, seed % _SEEDS)
                for row in rows
            ]
            result[rows] = np.array(hashes, np.uint64)
        else:
            result[rows] = _in_chunks(data[starts[rows][:, None] + np.arange(length)], seed)
    return result


def _in_chunks(keys: NDArray[np.uint8], seed: int) -> Words:
    start = np.uint64(seed % _SEEDS)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what is meant
        return np.concatenate(
            [_xxh64(keys[row : row + _CHUNK], start) for row in range(0, len(keys), _CHUNK)]
        )


def _xxh64(keys: NDArray[np.uint8], seed: np.uint64) -> Words:
    """Hash rows of equal length, [n, length] -> [n]."""
    count, length = keys.shape
    eights, rest = length // 8, length % 8
    words = np.ascontiguousarray(keys[:, : 8 * eights].reshape(count, eights, 8).transpose(1, 0, 2))
    lanes = words.view("<u8").reshape(eights, count)
    used = 0
    if length >= 32:
        used = 4 * (eights // 4)
        total = _stripes(lanes[:used], seed)
    else:
        total = np.full(count, seed + _P5, np.uint64)
    total += np.uint64(length)
    for lane in lanes[used:]:
        total = _rotated(total ^ _round(np.uint64(0), lane), 27) * _P1 + _P4
    if rest >= 4:
        four = np.ascontiguousarray(keys[:, 8 * eights : 8 * eights + 4]).view("<u4").reshape(count)
        total = _rotated(total ^ (four.astype(np.uint64) * _P1), 23) * _P2 + _P3
    for column in range(length - rest % 4, length):
        total = _rotated(total ^ (keys[:, column].astype(np.uint64) * _P5), 11) * _P1
    return _avalanche(total)


def _stripes(lanes: Words, seed: np.uint64) -> Words:
    """Accumulate stripes of 32 bytes in four lanes, [4 k, n] -> [n]."""
    states = [
        np.full(lanes.shape[1], start, np.uint64)
        for start in (seed + _P1 + _P2, seed + _P2, seed, seed - _P1)
    ]
    for number, lane in enumerate(lanes):
        states[number % 4] = _round(states[number % 4], lane)
    turned = [_rotated(state, bits) for state, bits in zip(states, (1, 7, 12, 18), strict=True)]
    total = turned[0] + turned[1] + turned[2] + turned[3]
    for state in states:
        total = (total ^ _round(np.uint64(0), state)) * _P1 + _P4
    return total


def _round(state: Words | np.uint64, lane: Words) -> Words:
    return _rotated(state + lane * _P2, 31) * _P1


def _rotated(words: Words, bits: int) -> Words:
    return (words << np.uint64(bits)) | (words >> np.uint64(64 - bits))


def _avalanche(total: Words) -> Words:
    total = (total ^ (total >> np.uint64(33))) * _P2
    total = (total ^ (total >> np.uint64(29))) * _P3
    return total ^ (total >> np.uint64(32))
