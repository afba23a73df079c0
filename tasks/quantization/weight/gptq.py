"""Rounding that lets later weights make up for the errors of earlier ones.

Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers"
(2023), algorithm 1: minimises || X W' - X Q(W)' ||^2 over the observed rows, one input after the
other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtri  # type: ignore[import-untyped]  # ships no types

from tasks.numerics.formats import NumberFormat, round_to_format, widened
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


def damped_hessian(rows: NDArray[np.float32], damping: float = DAMPING) -> DampedHessian:
    """Return the damped Hessian of rows [n, inputs], inputs of most energy first.

    Give the rows as the layer reads them: smoothed, and quantized where the activation is.
    """
    wide = widened(rows)
    gram = (wide.T @ wide).astype(np.float64)
    order = np.argsort(-np.diag(gram), kind="stable")
    return DampedHessian(order, inverse_factor(gram[np.ix_(order, order)], damping))


def compensate(
    weight: NDArray[np.float32], hessian: DampedHessian, scheme: WeightScheme
) -> QuantizedWeight:
    """Round one of several weights [outputs, inputs] that read the same rows.

    Scales come from the weight as given, those of blocks too: so the order in which inputs are
    rounded leaves blocks as they are stored.
    """
    block, order = block_size(scheme.granularity, weight.shape[1]), hessian.order
    scales, zeros = qparams(weight, scheme)
    of_input = (order // block) if block else np.zeros_like(order)
    steps = _Steps(
        np.ascontiguousarray(scales.T)[of_input],
        None if zeros is None else zeros.T.astype(np.float32)[of_input],
        scheme.format,
    )
    pending = np.ascontiguousarray(weight.T[order], dtype=np.float32)
    rounded = _round(pending, hessian.inverse_factor, steps)
    values = np.empty_like(rounded)
    values[order] = rounded
    return QuantizedWeight(
        scheme.format,
        np.ascontiguousarray(values.T),
        scales,
        zeros,
        block,
        weight.shape,
        scheme.tensor_scale(weight),
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
    """What the weights of each input are rounded with."""

    scale: NDArray[np.float32]  # [inputs, outputs], or [inputs, 1] per tensor
    zero: NDArray[np.float32] | None  # like scale
    format: NumberFormat

    def quantized(self, at: int, weights: NDArray[np.float32]) -> NDArray[np.generic]:
        """Round the weights of one input, [outputs]."""
        units = weights / self.scale[at]
        return round_to_format(units if self.zero is None else units + self.zero[at], self.format)

    def dequantized(self, at: int, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """Restore the weights of one input from their quantized values, [outputs]."""
        shifted = values.astype(np.float32)
        units = shifted if self.zero is None else shifted - self.zero[at]
        restored: NDArray[np.float32] = units * self.scale[at]
        return restored


def _round(
    pending: NDArray[np.float32], factor: NDArray[np.float32], steps: _Steps
) -> NDArray[np.generic]:
    """Return quantized values [inputs, outputs] of the weights in `pending`, which are used up."""
    inputs = len(pending)
    rows: list[NDArray[np.generic]] = []
    for start in range(0, inputs, LAZY):
        stop = min(start + LAZY, inputs)
        errors = np.empty((stop - start, pending.shape[1]), np.float32)
        for at in range(start, stop):
            rows.append(steps.quantized(at, pending[at]))
            lost = pending[at] - steps.dequantized(at, rows[-1])
            error = errors[at - start] = lost / factor[at, at]
            pending[at + 1 : stop] -= factor[at, at + 1 : stop, None] * error
        pending[stop:] -= factor[start:stop, stop:].T @ errors
    return np.stack(rows)
