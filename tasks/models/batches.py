"""What a batcher yields."""

from collections.abc import Iterator
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
    whole: bool = False  # whether the graph takes exactly so many, so that nothing is cut

    def parts(self, size: int) -> Iterator["Batch"]:
        """Yield the same cases in batches of at most `size`; padding stays as it is."""
        if self.whole:
            yield self
            return
        for start in range(0, len(self.cases), size):
            chosen = slice(start, start + size)
            feeds = {name: value[chosen] for name, value in self.feeds.items()}
            yield Batch(feeds, self.cases[chosen], None if self.mask is None else self.mask[chosen])
