"""Rounding that lets later weights make up for the errors of earlier ones.

Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers"
(2023), algorithm 1: minimises || X W' - X Q(W)' ||^2 over the observed rows, one input after the
other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtri  # type: ignore[import-untyped]  # ships no types

from tasks.numerics.formats import NumberFormat, PerChannel, round_to_format, widened
from tasks.numerics.quantized_weight import QuantizedWeight, WeightScheme, block_size, qparams

DAMPING = 0.1
"""Added to every diagonal element of the Hessian, as a fraction of itself.

The paper adds 1 % of the mean. Smoothed inputs differ so much in energy that no fraction of the
mean suits all: a small one lets a few hundred rows be overfitted, a large one drowns quiet inputs.
"""
FLOOR = 0.03
"""Added on top, as a fraction of the mean.

Inputs that were hardly seen stay near plain rounding.
"""
LAZY = 128
"""Inputs whose effect on those after them is applied at once (section 3.3, step 2)."""


@dataclass(frozen=True, slots=True, eq=False)
class DampedHessian:
    """The Hessian of the output error by a layer's weights.

    What the rows say of all who read them.
    """

    order: NDArray[np.intp]  # in which the inputs are rounded, [inputs]
    inverse_factor: NDArray[np.float32]  # see the function of that name, in that order


def damped_hessian(
    rows: NDArray[np.float32], scheme: WeightScheme, damping: float = DAMPING
) -> DampedHessian:
    """Return the damped Hessian of rows [n, inputs].

    Give the rows as the layer reads them: smoothed, and quantized where the activation is.
    Inputs of most energy go first, but in their own order where a scheme has blocks.
    """
    wide = widened(rows)
    gram = (wide.T @ wide).astype(np.float64)
    blocks = block_size(scheme.granularity, len(gram))
    order = np.arange(len(gram)) if blocks else np.argsort(-np.diag(gram), kind="stable")
    return DampedHessian(order, inverse_factor(gram[np.ix_(order, order)], damping))


def compensate(
    weight: NDArray[np.float32], hessian: DampedHessian, scheme: WeightScheme
) -> QuantizedWeight:
    """Round one of several weights [outputs, inputs] that read the same rows.

    Without blocks, scales come from the weight as given. With blocks, a block's come from its
    weights as the blocks before have left them.
    """
    block = block_size(scheme.granularity, weight.shape[1])
    order = hessian.order
    pending = np.ascontiguousarray(weight.T[order], dtype=np.float32)
    steps = [] if block else [_Steps.of(weight, scheme)]
    rounded = _round(pending, hessian.inverse_factor, scheme, block, steps)
    values = np.empty_like(rounded)
    values[order] = rounded
    scales = np.stack([item.scale for item in steps], axis=1)
    zeros = (
        None
        if scheme.symmetric
        else np.stack([item.zero for item in steps], axis=1).astype(np.int8)
    )
    return QuantizedWeight(
        scheme.format, np.ascontiguousarray(values.T), scales, zeros, block, weight.shape
    )


def inverse_factor(gram: NDArray[np.float64], damping: float) -> NDArray[np.float32]:
    """Return the upper U where U' U is the inverse of the damped Gram matrix [inputs, inputs].

    It is so up to one factor for all. A Cholesky factor of the matrix with its axes reversed is R
    with R R' = H, and U = R^-1: the inverse of H itself is never formed. Rows of nothing but zeros
    give the identity.
    """
    mean = float(np.diag(gram).mean())
    damped = gram / mean if mean > 0 else np.zeros_like(gram)
    diagonal = np.diag_indices_from(damped)
    damped[diagonal] = damped[diagonal] * (1 + damping) + (FLOOR if mean > 0 else 1.0)
    lower = dpotrf(np.asfortranarray(damped[::-1, ::-1]), lower=1, clean=1, overwrite_a=1)[0]
    # A third of the work of solving for the identity.
    inverse: NDArray[np.float64] = dtrtri(lower[::-1, ::-1])[0]
    return inverse.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """What the weights of one block are rounded with, per output."""

    scale: NDArray[np.float32]  # [outputs], or [1] per tensor
    zero: NDArray[np.float32]  # like scale
    format: NumberFormat

    @classmethod
    def of(cls, weight: NDArray[np.float32], scheme: WeightScheme) -> _Steps:
        """Return those of a weight [outputs, inputs] that has one scale a row, or one in all."""
        scales, zeros = qparams(weight, scheme)
        zero = np.zeros_like(scales) if zeros is None else zeros.astype(np.float32)
        return cls(scales[:, 0], zero[:, 0], scheme.format)

    def quantize(self, weights: NDArray[np.float32]) -> NDArray[np.generic]:
        """Round the weights of one input, [outputs]."""
        return round_to_format(weights / self.scale + self.zero, self.format)

    def dequantize(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """Restore the weights of one input from their quantized values, [outputs]."""
        return (values.astype(np.float32) - self.zero) * self.scale


def _round(
    pending: NDArray[np.float32],
    factor: NDArray[np.float32],
    scheme: WeightScheme,
    block: int | None,
    steps: list[_Steps],
) -> NDArray[np.generic]:
    """Return quantized values [inputs, outputs] of the weights in `pending`, which are used up.

    Each block's steps are added to `steps`.
    """
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
            rows.append(steps[-1].quantize(pending[at]))
            lost = pending[at] - steps[-1].dequantize(rows[-1])
            error = errors[at - start] = lost / factor[at, at]
            pending[at + 1 : stop] -= factor[at, at + 1 : stop, None] * error
        pending[stop:] -= factor[start:stop, stop:].T @ errors
    return np.stack(rows)
