"""What a batcher yields."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Arrays

BATCH = 16
CASES = 4
"""Of a batch, that are observed at a time.

Every site's activations of two such groups are in memory at once, so this bounds it.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Feeds of up to BATCH cases."""

    feeds: Arrays
    cases: NDArray[np.int64]  # their places in the sequence
    mask: NDArray[np.bool_] | None  # [batch, tokens]: True where a token is real
    whole: bool = False  # whether the graph takes exactly so many, so that nothing is cut
    # [batch, tokens]: True where what a writing model predicts counts; None: wherever it is real.
    counted: NDArray[np.bool_] | None = None

    def parts(self, size: int) -> Iterator["Batch"]:
        """Yield the same cases in batches of at most `size`; padding stays as it is."""
        if self.whole:
            yield self
            return
        for start in range(0, len(self.cases), size):
            chosen = slice(start, start + size)
            feeds = {name: value[chosen] for name, value in self.feeds.items()}
            mask = None if self.mask is None else self.mask[chosen]
            counted = None if self.counted is None else self.counted[chosen]
            yield Batch(feeds, self.cases[chosen], mask, counted=counted)
