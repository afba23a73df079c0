"""Numbers of versions: MLflow gives the next free one, and a lost registry had others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST_SKIPPED = 1000
"""Numbers that are passed over at most; beyond, the version takes the one it gets."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Which number a version shall have, where it is free, and which are taken by others.

    MLflow counts on from the highest number that it ever gave, deleted versions included. So a
    version that is made and deleted passes over a number.
    """

    wanted: int = 0  # 0: any
    highest: int = 0  # that a release was ever known under: none up to it is given to another

    def claimed(self, create: Callable[[], Any], delete: Callable[[int], object]) -> int:
        """Return the number of the version that stays of those that `create` makes."""
        number = int(create().version)
        for _ in range(MOST_SKIPPED):
            if number == self.wanted or number > self.highest:
                break
            delete(number)
            number = int(create().version)
        return number


FREE = Numbers()
