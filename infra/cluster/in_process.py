"""Work in this process."""

import time
from collections.abc import Callable, Iterable, Iterator

from infra.cluster.port import TRIES, R, T
from infra.errors import Unavailable


class InProcess:
    """One item after the other, here."""

    workers = 1

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Work item by item, as the caller asks for results."""
        return (tried(function, item) for item in items)


def tried(function: Callable[[T], R], item: T) -> R:
    """Return the result for one item, tried again while something outside does not answer."""
    for remaining in range(TRIES - 1, -1, -1):
        try:
            return function(item)
        except Unavailable:
            if not remaining:
                raise
            time.sleep(0.1 * (TRIES - remaining))
    raise AssertionError("TRIES is at least 1")
