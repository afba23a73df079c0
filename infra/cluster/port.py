"""What every place to work can do; each adapter passes `tests/contract/test_mappers.py`."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")

TRIES = 3
"""Of a piece that ends in `Unavailable`: a store that did not answer once."""


class Mapper(Protocol):
    """Runs one function over many items; each adapter passes `tests/contract/test_mappers.py`."""

    @property
    def workers(self) -> int:
        """How many items are worked on at once."""
        ...

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield the results in the order of the items, which are read a bounded number ahead.

        `function` is importable by name and `items` are small values: names, keys, digests. It may
        run more than once an item. What it raises is raised here at its item.

        Raises:
            Unavailable: It was raised TRIES times for an item, the workers are gone, or one item
                ends worker after worker.
        """
        ...
