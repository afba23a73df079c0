"""The quantizer of an activation, and what it lets through."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.formats import NumberFormat, round_to_format


@dataclass(frozen=True, slots=True, eq=False)
class Quantizer:
    """One scale for a whole tensor.

    The tensor is divided by the smoothing scales, if any, then by the scale, shifted by the
    zero-point and rounded.
    """

    amax: float  # largest magnitude that is represented
    smoothing_scales: NDArray[np.float32] | None = None  # [channels]
    format: NumberFormat = NumberFormat.INT8
    # Least and largest value, zero between them; None: -amax and amax.
    bounds: tuple[float, float] | None = None

    @property
    def scale(self) -> float:
        """The step between two quantized values."""
        if self.bounds is None:
            return self.amax / self.format.largest
        return (self.bounds[1] - self.bounds[0]) / (2 * self.format.largest + 1)

    @property
    def zero_point(self) -> int:
        """The quantized value of 0.

        Jacob et al., "Quantization and training of neural networks" (2018), section 2.1.
        """
        if self.bounds is None:
            return 0
        lowest = -self.format.largest - 1
        shift = np.rint(lowest - self.bounds[0] / self.scale)
        return int(np.clip(shift, lowest, self.format.largest))


def fake_quantize(values: NDArray[np.float32], quantizer: Quantizer) -> NDArray[np.float32]:
    """Round to the quantizer's values and back, as QuantizeLinear and DequantizeLinear do.

    Args:
        values: An activation of any shape, already divided by the smoothing scales.
        quantizer: Its scale, zero-point and format.

    Returns:
        What the layers read of it, in the same shape.
    """
    scale, zero = np.float32(quantizer.scale), np.float32(quantizer.zero_point)
    units = (values / scale + zero).astype(np.float32)
    return (round_to_format(units, quantizer.format).astype(np.float32) - zero) * scale
