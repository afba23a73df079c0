"""What tensors look like, for a whole Arrow column at once.

Mean, maximum, deviation, and a random projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.payloads import RECORD, is_file, parse_record

WIDTH = 64
"""Of a tensor's projection: random signs, summed in random places.

This is a count sketch (Charikar and others, 2002).
"""
_ELEMENTS = 1 << 20  # looked at together


@dataclass(frozen=True, slots=True)
class TensorPiece:
    """Some tensors of one size."""

    numbers: dict[str, NDArray[np.float64]]  # mean, maximum, standard deviation
    flat: NDArray[np.float64]  # [tensors, elements]


def pieces(tensors: pa.Array) -> Iterator[TensorPiece]:
    """Yield little-endian float32 tensors as stored, by size, without missing ones.

    Raises:
        BadInput: A tensor is cut.
    """
    lengths = np.array(pa.compute.binary_length(tensors), np.int64)
    for length in np.unique(lengths).tolist():
        if length % 4:
            raise BadInput(
                f"a tensor has {length} bytes, which is no number of float32: import the traffic "
                "again"
            )
        rows = np.flatnonzero(lengths == length)
        step = max(1, _ELEMENTS // max(length // 4, 1))
        for start in range(0, len(rows), step):
            chosen = tensors.take(pa.array(rows[start : start + step]))
            yield _piece(b"".join(chosen.to_pylist()), len(chosen))


def split(inputs: pa.Array, dtypes: pa.Array | None) -> tuple[pa.Array, pa.Array]:
    """Return the plain tensors and the records of a column, without missing ones."""
    if dtypes is None:
        return inputs.drop_null(), inputs.slice(0, 0)
    records = pa.compute.fill_null(pa.compute.equal(dtypes, RECORD), False)
    return (
        inputs.filter(pa.compute.invert(records)).drop_null(),
        inputs.filter(records).drop_null(),
    )


def numbers_of_records(records: pa.Array) -> dict[str, NDArray[np.float64]]:
    """Return mean, maximum and deviation of each named tensor: "x mean" -> [records].

    Raises:
        BadInput: A record is no safetensors document.
    """
    columns: dict[str, list[float]] = {}
    for raw in records.to_pylist():
        for name, tensor in parse_record(raw).items():
            if not tensor.size:
                continue
            if is_file(tensor):
                columns.setdefault(f"{name} size", []).append(float(tensor.size))
                continue
            wide = tensor.astype(np.float64)
            figures = {"mean": wide.mean(), "maximum": wide.max(), "standard deviation": wide.std()}
            for figure, value in figures.items():
                columns.setdefault(f"{name} {figure}", []).append(float(value))
    return {name: np.array(values) for name, values in columns.items()}


def _piece(data: bytes, count: int) -> TensorPiece:
    flat = np.frombuffer(data, "<f4").reshape(count, -1).astype(np.float64)
    if not flat.shape[1]:
        return TensorPiece({}, flat)
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = {
            "mean": flat.mean(axis=1),
            "maximum": flat.max(axis=1),
            "standard deviation": flat.std(axis=1),
        }
    return TensorPiece(numbers, flat)


def project(units: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Project whole numbers [tensors, elements] -> whole numbers [tensors, WIDTH].

    Lengths are alike on average.
    """
    places, signs, starts, used = _drawn(units.shape[1], seed)
    projected = np.zeros((len(units), WIDTH))
    if len(starts):
        projected[:, used] = np.add.reduceat(units[:, places] * signs, starts, axis=1)
    return projected


@lru_cache(maxsize=8)
def _drawn(
    size: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Draw elements in the order of their places, and their signs.

    Returns:
        The elements, their signs, where each place begins, and which places have any.
    """
    random = np.random.default_rng([seed, size])
    chosen = random.integers(0, WIDTH, size)
    order = np.argsort(chosen, kind="stable")
    used, starts = np.unique(chosen[order], return_index=True)
    return order, random.choice([-1.0, 1.0], size), starts, used
