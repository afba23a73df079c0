"""Limits on guessing tokens: a delay after each wrong one, and none is looked at after too many.

Counted by address and by token id, in this process. The same wrong token again is no guess: what is
set up wrongly and asks every few seconds locks nobody out.
"""

from __future__ import annotations

import hashlib
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

WRONG = RateLimitItemPerMinute(10, 5)
"""Different wrong tokens of an address, or of an id, in 5 minutes, before none is looked at."""
DELAY_S, LONGEST_DELAY_S = 0.25, 2.0
"""How long the first wrong token is waited for, twice as long each next one, and at most."""
_MOST_SEEN = 4096


class Attempts:
    """Wrong tokens of the last minutes."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._seen: set[str] = set()

    def wait_s(self, address: str, token_id: str) -> int:
        """Return for how many seconds no token of there, or of that id, is looked at; 0: none."""
        full = [key for key in _keys(address, token_id) if not self._limiter.test(WRONG, *key)]
        if not full:
            return 0
        ends = max(self._limiter.get_window_stats(WRONG, *key).reset_time for key in full)
        return max(1, round(ends - time.time()))

    def wrong(self, address: str, token_id: str, token: str) -> tuple[float, bool]:
        """Count a wrong token; return its answer's delay in seconds, and whether it was new."""
        digest = hashlib.sha256(f"{address} {token}".encode()).hexdigest()
        is_new = digest not in self._seen
        if is_new:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen.add(digest)
            for key in _keys(address, token_id):
                self._limiter.hit(WRONG, *key)
        left = self._limiter.get_window_stats(WRONG, "address", address).remaining
        return min(DELAY_S * 2 ** (WRONG.amount - 1 - left), LONGEST_DELAY_S), is_new


def _keys(address: str, token_id: str) -> list[tuple[str, str]]:
    return [("address", address), *([("token", token_id)] if token_id else [])]
