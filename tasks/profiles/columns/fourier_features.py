"""The mean of random Fourier features of embeddings, in whole numbers.

No order of adding can change it. Rahimi and Recht, "Random features for large-scale kernel
machines" (2007): the distance of two such means estimates the maximum mean discrepancy of the two
data sets under a Gaussian kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput

UNIT = 1 << 12
"""An embedding's component of 1, as a whole number."""
LARGEST = 1 << 22
"""Components beyond 1024 are held at that."""
_STEPS = 4096  # of a full turn
_FRACTION = 1 << 8  # of a step, in the frequencies
_SHIFT = (UNIT * _FRACTION).bit_length() - 1
_SCALE = 1 << 20  # of a cosine: 2^42 rows fit an int64

# All are whole numbers, and sums of their products stay below 2^53: a float64 matrix product is
# exact in any order.
_COSINES: NDArray[np.int64] = np.rint(
    np.cos((np.arange(_STEPS) + 0.5) * 2 * np.pi / _STEPS) * _SCALE
).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class FourierFeatures:
    """Sums over embeddings of cos(w x + b), [features], in units of 2^-20.

    `+` is exact, commutative and associative.
    """

    sums: NDArray[np.int64]
    rows: int = 0
    zeros: int = 0  # embeddings without any direction: they count, all at one place
    nonfinite: int = 0  # embeddings with infinities or NaN: left out of the sums

    @classmethod
    def empty(cls, features: int) -> FourierFeatures:
        """Return the neutral element of `+`."""
        return cls(np.zeros(features, np.int64))

    def __add__(self, other: FourierFeatures) -> FourierFeatures:
        """Return the sums of both together."""
        return replace(
            self,
            sums=self.sums + other.sums,
            rows=self.rows + other.rows,
            zeros=self.zeros + other.zeros,
            nonfinite=self.nonfinite + other.nonfinite,
        )

    def __eq__(self, other: object) -> bool:
        """Return whether sums and counts are the same."""
        if not isinstance(other, FourierFeatures):
            return NotImplemented
        counts = (self.rows, self.zeros, self.nonfinite) == (
            other.rows,
            other.zeros,
            other.nonfinite,
        )
        return counts and bool(np.array_equal(self.sums, other.sums))

    __hash__ = None  # type: ignore[assignment]  # holds an array

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean of sqrt(2 / features) cos(w x + b), [features]; zeros when there are no rows."""
        mean: NDArray[np.float64] = self.sums / (_SCALE * max(self.rows, 1))
        return mean * float(np.sqrt(2 / max(len(self.sums), 1)))


def summed_features(
    units: NDArray[np.float64], *, features: int, bandwidth: float, seed: int
) -> NDArray[np.int64]:
    """Return the sums over embeddings [rows, width] -> [features].

    Components are whole multiples of 1 / UNIT.
    """
    frequencies, shifts = _drawn(units.shape[1], features, bandwidth, seed)
    phases = (units @ frequencies).astype(np.int64)
    phases >>= _SHIFT
    phases += shifts
    phases &= _STEPS - 1
    total: NDArray[np.int64] = _COSINES[phases].sum(axis=0)
    return total


@lru_cache(maxsize=8)
def _drawn(
    width: int, features: int, bandwidth: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw frequencies [width, features] and phase shifts [features], in whole units.

    They are those of a Gaussian kernel of this bandwidth.
    """
    if not bandwidth > 0:
        raise BadInput(f"a kernel of bandwidth {bandwidth} cannot be had: give a number above 0")
    random = np.random.default_rng([seed, width, features])
    frequencies = random.standard_normal((width, features)) / bandwidth
    return np.rint(frequencies * _STEPS * _FRACTION / (2 * np.pi)), random.integers(
        0, _STEPS, features
    )


def normalized(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows [n, width] of length UNIT in whole components; a row of zeros stays one."""
    largest = np.abs(vectors).max(axis=1, initial=0.0, keepdims=True)
    scaled = np.divide(
        vectors, largest, out=np.zeros_like(vectors), where=largest > 0
    )  # 1e200 squared would overflow
    integers = np.rint(scaled * UNIT)  # whole numbers, whose squares add up exactly in any order
    length = np.sqrt(np.einsum("ij,ij->i", integers, integers))[:, None]
    units: NDArray[np.float64] = np.divide(
        integers, length, out=np.zeros_like(vectors), where=length > 0
    )
    return np.rint(units * UNIT, out=units)


def scaled_units(vectors: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Return rows [n, width] in whole multiples of scale / UNIT, held within LARGEST."""
    if not scale > 0:
        raise BadInput(f"a tensor scale of {scale} measures nothing: give a number above 0")
    return np.rint(np.clip(vectors / scale * UNIT, -LARGEST, LARGEST))
