"""Digits whose latency limit a test breaks on purpose, and what is seen of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tests.integration.gateways import Served, until

BACK_AFTER_S = 15.0
LATE_MS = 10.0
FALLBACK = {"latency_ms": LATE_MS, "late": 0.5, "shadow": 1.0, "back_after_s": BACK_AFTER_S}
QUALITY = [{"metric": "accuracy-drop", "at_most": 0.5}]
BUDGETS = {"size_ratio": 1e-6, "latency_ratio": 50.0, "quality": QUALITY}
"""That no candidate meets, so that the champion stays."""
SLOW_ROWS = 4096
"""Of one request: what takes far longer than the limit where eight such wait together."""


def routed(served: Served, rows: int = 1) -> str:
    """Return what routed one request of so many images."""
    image = np.full((rows, 1, 8, 8), 0.5, np.float32)
    answer = served.infer("digits", "image", image)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["parameters"].get("routed", ""))


def break_the_limit(served: Served) -> None:
    """Ask for more than can be answered in time, until traffic has left the champion."""
    with ThreadPoolExecutor(8) as clients:
        until(lambda: "fallback" in clients.map(lambda _: routed(served, SLOW_ROWS), range(16)), 60)
    until(lambda: incident() is not None)


def incident() -> LedgerEntry | None:
    """Return the newest entry where traffic left."""
    falls = (entry for entry in journal.read("digits") if entry.kind is EntryKind.FELL_BACK)
    return max(falls, key=lambda entry: entry.time, default=None)


def came_back(served: Served) -> bool:
    """Return whether the champion answers again, as the ledger says, too."""
    kinds = {entry.kind for entry in journal.read("digits")}
    return routed(served) == "" and EntryKind.RETURNED in kinds
