"""One weight rounded by GPTQ."""

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.quantized_weight import QuantizedWeight, WeightScheme
from tasks.quantization.weight.gptq import DAMPING, compensate, damped_hessian


def gptq(
    weight: NDArray[np.float32],
    rows: NDArray[np.float32],
    scheme: WeightScheme,
    damping: float = DAMPING,
) -> QuantizedWeight:
    """Round a weight [outputs, inputs] for the rows [n, inputs] that it will meet."""
    return compensate(weight, damped_hessian(rows, damping), scheme)
