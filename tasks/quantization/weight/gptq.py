"""Rounding that lets later weights make up for the errors of earlier ones.

Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers" (2023),
algorithm 1: minimises || X W' - X Q(W)' ||^2 over the observed rows, one input after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtri  # type: ignore[import-untyped]  # ships no types

from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat, PerChannel, round_to_levels
from tasks.numerics.output_error import widened
from tasks.quantization.weight.quantize import QuantizedWeight, WeightScheme, block_size, qparams

DAMPING = 0.1
"""Added to every diagonal element of the Hessian, as a share of itself.

The paper adds 1 % of the mean. Smoothed inputs differ so much in energy that no share of the mean suits all: a small
one lets a few hundred rows be overfitted, a large one drowns the quiet inputs.
"""
FLOOR = 0.03
"""Added on top, as a share of the mean: inputs that were hardly seen stay near plain rounding."""
LAZY = 128
"""Inputs whose effect on those after them is applied at once (section 3.3, step 2)."""


@dataclass(frozen=True, slots=True, eq=False)
class DampedHessian:
    """What the rows say of every layer that reads them."""

    order: NDArray[np.intp]  # in which the inputs are rounded, [inputs]
    factor: NDArray[np.float32]  # see `inverse_factor`, in that order


def gptq(
    weight: NDArray[np.float32],
    rows: NDArray[np.float32],
    scheme: WeightScheme,
    damping: float = DAMPING,
) -> QuantizedWeight:
    """Round a weight [outputs, inputs] for the rows [n, inputs] that it will meet.

    Give the rows as the layer sees them: smoothed, and quantized where the activation is. Raises `BadInput` when
    shapes do not fit.
    """
    if weight.ndim != 2 or rows.ndim != 2 or rows.shape[1] != weight.shape[1]:
        raise BadInput(
            f"GPTQ needs rows of the weight's inputs: weight {weight.shape}, rows {rows.shape}"
        )
    return compensate(weight, damped_hessian(rows, scheme, damping), scheme)


def damped_hessian(
    rows: NDArray[np.float32], scheme: WeightScheme, damping: float = DAMPING
) -> DampedHessian:
    """Of rows [n, inputs]: the inputs of most energy go first, but in their own order where a scheme has blocks."""
    wide = widened(rows)
    gram = (wide.T @ wide).astype(np.float64)
    blocks = block_size(scheme.granularity, len(gram))
    order = np.arange(len(gram)) if blocks else np.argsort(-np.diag(gram), kind="stable")
    return DampedHessian(order, inverse_factor(gram[np.ix_(order, order)], damping))


def compensate(
    weight: NDArray[np.float32], seen: DampedHessian, scheme: WeightScheme
) -> QuantizedWeight:
    """`gptq` for one of several weights [outputs, inputs] that read the same rows.

    Without blocks, scales come from the weight as given; with blocks, a block's come from its weights as the blocks
    before have left them.
    """
    block = block_size(scheme.granularity, weight.shape[1])
    order = seen.order
    pending = np.ascontiguousarray(weight.T[order], dtype=np.float32)
    steps = [] if block else [_Steps.of(weight, scheme)]
    rounded = _round(pending, seen.factor, scheme, block, steps)
    levels = np.empty_like(rounded)
    levels[order] = rounded
    scales = np.stack([item.scale for item in steps], axis=1)
    zeros = (
        None
        if scheme.symmetric
        else np.stack([item.zero for item in steps], axis=1).astype(np.int8)
    )
    return QuantizedWeight(
        scheme.format, np.ascontiguousarray(levels.T), scales, zeros, block, weight.shape
    )


def inverse_factor(gram: NDArray[np.float64], damping: float) -> NDArray[np.float32]:
    """Upper U with U' U the inverse of the damped Gram matrix [inputs, inputs], up to one factor for all.

    A Cholesky factor of the matrix with its axes reversed is R with R R' = H, and U = R^-1: the inverse of H itself
    is never formed. Rows of nothing but zeros give the identity.
    """
    mean = float(np.diag(gram).mean())
    damped = gram / mean if mean > 0 else np.zeros_like(gram)
    diagonal = np.diag_indices_from(damped)
    damped[diagonal] = damped[diagonal] * (1 + damping) + (FLOOR if mean > 0 else 1.0)
    lower = dpotrf(np.asfortranarray(damped[::-1, ::-1]), lower=1, clean=1, overwrite_a=1)[0]
    inverse: NDArray[np.float64] = dtrtri(lower[::-1, ::-1])[
        0
    ]  # a third of the work of solving for the identity
    return inverse.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """What the weights of one block are rounded with, per output."""

    scale: NDArray[np.float32]  # [outputs], or [1] per tensor
    zero: NDArray[np.float32]  # like scale
    format: NumberFormat

    @classmethod
    def of(cls, weight: NDArray[np.float32], scheme: WeightScheme) -> _Steps:
        """Those of a weight [outputs, inputs] that has one scale a row, or one in all."""
        scales, zeros = qparams(weight, scheme)
        zero = np.zeros_like(scales) if zeros is None else zeros.astype(np.float32)
        return cls(scales[:, 0], zero[:, 0], scheme.format)

    def levels(self, values: NDArray[np.float32]) -> NDArray[np.generic]:
        """Weights of one input [outputs] -> levels."""
        return round_to_levels(values / self.scale + self.zero, self.format)

    def restore(self, levels: NDArray[np.generic]) -> NDArray[np.float32]:
        """Levels of one input [outputs] -> weights."""
        return (levels.astype(np.float32) - self.zero) * self.scale


def _round(
    pending: NDArray[np.float32],
    factor: NDArray[np.float32],
    scheme: WeightScheme,
    block: int | None,
    steps: list[_Steps],
) -> NDArray[np.generic]:
    """Levels [inputs, outputs] of the weights in `pending`, which are used up; adds each block's steps to `steps`."""
    inputs = len(pending)
    lazy = LAZY if block is None else max(LAZY // block, 1) * block
    rows: list[NDArray[np.generic]] = []
    for start in range(0, inputs, lazy):
        stop = min(start + lazy, inputs)
        errors = np.empty((stop - start, pending.shape[1]), np.float32)
        for at in range(start, stop):
            if block is not None and at % block == 0:
                members = pending[at : min(at + block, inputs)].T
                steps.append(_Steps.of(members, replace(scheme, granularity=PerChannel())))
            rows.append(steps[-1].levels(pending[at]))
            error = errors[at - start] = (pending[at] - steps[-1].restore(rows[-1])) / factor[
                at, at
            ]
            pending[at + 1 : stop] -= factor[at, at + 1 : stop, None] * error
        pending[stop:] -= factor[start:stop, stop:].T @ errors
    return np.stack(rows)
