"""What a batcher yields."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Arrays

BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Feeds of up to BATCH cases."""

    feeds: Arrays
    cases: NDArray[np.int64]  # their places in the sequence
    mask: NDArray[np.bool_] | None  # [batch, tokens]: True where a token is real
