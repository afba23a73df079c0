"""How many different values were seen, by HyperLogLog registers.

They only ever grow, so that merging is exact. Flajolet and others, "HyperLogLog" (2007). The
estimate is Ertl's, "New cardinality estimation algorithms for HyperLogLog sketches" (2017), which
needs no correction tables; its standard error is 1.04 / sqrt(registers), 1.6 %. The registers are
filled from whole arrays of hashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, sqrt

import numpy as np
from numpy.typing import NDArray

_BITS = 12
REGISTERS = 1 << _BITS
_LEFT = 64 - _BITS  # bits of a hash that do not choose the register


@dataclass(frozen=True, slots=True, eq=False)
class Distinct:
    """Registers, [4096]; `|` is exact, commutative, associative and idempotent."""

    registers: NDArray[np.uint8]

    @classmethod
    def empty(cls) -> Distinct:
        """Return the neutral element of `|`."""
        return cls(np.zeros(REGISTERS, np.uint8))

    @classmethod
    def of(cls, hashes: NDArray[np.uint64]) -> Distinct:
        """Return the registers of values given by well-mixed 64-bit hashes."""
        return cls(updated(np.zeros(REGISTERS, np.uint8), hashes))

    def __or__(self, other: Distinct) -> Distinct:
        """Return the registers of the values of both together; what is in both counts once."""
        return Distinct(np.maximum(self.registers, other.registers))

    def __eq__(self, other: object) -> bool:
        """Return whether the registers are the same."""
        return isinstance(other, Distinct) and bool(np.array_equal(self.registers, other.registers))

    __hash__ = None  # type: ignore[assignment]  # holds an array

    @property
    def value(self) -> float:
        """The estimated number of different values."""
        counts = np.bincount(self.registers, minlength=_LEFT + 2).astype(float)
        total = REGISTERS * _tau(1 - counts[_LEFT + 1] / REGISTERS)
        for rank in range(_LEFT, 0, -1):
            total = (total + counts[rank]) / 2
        total += REGISTERS * _sigma(counts[0] / REGISTERS)
        return REGISTERS**2 / (2 * log(2) * total) if total < inf else 0.0


def updated(registers: NDArray[np.uint8], hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the registers after these hashes, written in place.

    Each holds the largest rank of those that chose it.
    """
    # The rank is 1 + leading zeros of the rest; its lowest set bit is as random as its highest,
    # and cheaper to find.
    chosen = (hashes >> np.uint64(_LEFT)).astype(np.intp)
    lowest = hashes & (~hashes + np.uint64(1))
    candidates = np.flatnonzero(lowest >> registers[chosen] != 0)
    rest = hashes[candidates] & np.uint64(2**_LEFT - 1)
    single = (rest & (~rest + np.uint64(1))).astype(np.float64)
    ranks = np.where(rest == 0, _LEFT + 1, np.frexp(single)[1]).astype(np.uint8)
    np.maximum.at(registers, chosen[candidates], ranks)
    return registers


def _sigma(x: float) -> float:
    if x == 1:
        return inf
    y, total = 1.0, x
    while True:
        x, before = x * x, total
        total += x * y
        y += y
        if total == before:
            return total


def _tau(x: float) -> float:
    if x in (0, 1):
        return 0.0
    y, total = 1.0, 1 - x
    while True:
        x, before = sqrt(x), total
        y /= 2
        total -= (1 - x) ** 2 * y
        if total == before:
            return total / 3
