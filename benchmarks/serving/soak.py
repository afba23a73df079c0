"""A gateway under load for long, while its releases swap and every request is sampled.

Its memory has to stay what it was, and every answer has to be in the live traffic, once: all that
is missing, the gateway's counters say.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import httpx
import numpy as np
import psutil

from benchmarks.chaos.children import Child
from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.serving.calls import binary
from benchmarks.serving.hot_swap import act, releases
from benchmarks.serving.load import TimedAnswers, ask
from benchmarks.serving.workspace import (
    ServedModel,
    ServedWorkspace,
    registered,
    served_model,
    serving,
    stored_ids,
)
from tasks.promotion.acts.promoting import promote

CLIENTS, LOAD = 8, 0.7
"""Clients, and the share of the throughput at saturation that they ask for together."""
SHORT_SECONDS, SHORT_SWAP_S, SHORT_LOAD = 120.0, 24.0, 0.15
"""Of the tests, beside which others run."""
SECONDS, SWAP_S = 1800.0, 60.0
QUICK_SECONDS, QUICK_SWAP_S = 12.0, 4.0
DROPPED = ("full", "failed", "no text")
"""Outcomes of sampled requests that are in no traffic."""


@dataclass(frozen=True, slots=True)
class SoakRow:
    """What came of it."""

    name: str = column("model")
    minutes: float = column("minutes", ".1f")
    swaps: int = column("swaps", "d")
    answers: int = column("answers", "d")
    failed: int = column("failed", "d")
    p99: float = column("p99 ms", ".1f")
    stored: int = column("rows of traffic", "d")
    dropped: int = column("dropped, as counters say", "d")
    lost: int = column("lost", "d")
    doubled: int = column("doubled", "d")
    growth: float = column("memory, last third over second", ".3f")


def measure(quick: bool) -> ResultTable:
    """Ask for half an hour."""
    seconds, swap_s = (QUICK_SECONDS, QUICK_SWAP_S) if quick else (SECONDS, SWAP_S)
    row = soak(served_model(quick), seconds, swap_s)
    return ResultTable(
        "soak",
        f"{row.name} at {LOAD:.0%} of its throughput, a swap each {swap_s:g} s, all sampled",
        [row],
        (
            Goal("failed requests:", 0, row.failed, "at most"),
            Goal("rows lost that no counter names:", 0, row.lost, "at most"),
            Goal("rows doubled:", 0, row.doubled, "at most"),
            Goal("memory, last third over second:", 1.05, row.growth, "at most"),
        ),
    )


def soak(model: ServedModel, seconds: float, swap_s: float, load: float = LOAD) -> SoakRow:
    """Serve two releases of a model in turns, and count.

    Args:
        model: What is served.
        seconds: How long.
        swap_s: Seconds between two swaps.
        load: Share of the throughput at saturation that is asked for.
    """
    with registered(model.name) as chosen:
        first, others = releases(chosen, model, max(2, int(seconds / swap_s) - 1))
        promote(first, None, "benchmark", "it passed")
        with serving(chosen, REQUANT_GATEWAY_CAPTURE="1.0") as served:
            call = binary(served.address, model.tensors, model.name, served.headers)
            warm = [ask(call, CLIENTS, 2.0) for _ in range(2)]
            every_s = CLIENTS / (load * warm[-1].throughput)
            acting = Child(lambda: act(first, others, swap_s))
            with MemoryWatch(served) as memory:
                answers = ask(call, CLIENTS, seconds, every_s=every_s)
            ended = acting.end()
            dropped = sum(_counted(served, model.name, outcome) for outcome in DROPPED)
        if ended.code:
            raise RuntimeError(f"a swap failed: {ended.said}")
        stored = stored_ids(chosen, model.name)
    answered = sum(len(each.seconds) for each in (*warm, answers))
    return _row(
        model.name, 2 * len(others), answers, answered, stored, int(dropped), memory.megabytes
    )


def _row(
    name: str,
    swaps: int,
    answers: TimedAnswers,
    answered: int,
    stored: list[str],
    dropped: int,
    megabytes: list[float],
) -> SoakRow:
    third = max(1, len(megabytes) // 3)
    return SoakRow(
        name,
        answers.span / 60,
        swaps,
        answered,
        len(answers.failures),
        answers.milliseconds(99),
        len(stored),
        dropped,
        answered - dropped - len(set(stored)),
        len(stored) - len(set(stored)),
        float(np.median(megabytes[-third:]) / np.median(megabytes[third : 2 * third] or megabytes)),
    )


class MemoryWatch:
    """Memory of a gateway, MB, looked at each half second while the block lasts."""

    def __init__(self, served: ServedWorkspace) -> None:
        """Watch none yet."""
        self.megabytes: list[float] = []
        self._process = psutil.Process(served.server.pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> MemoryWatch:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            self.megabytes.append(self._process.memory_info().rss / 1e6)


def _counted(served: ServedWorkspace, model: str, outcome: str) -> float:
    line = f'requant_gateway_captured_total{{model="{model}",outcome="{outcome}"}}'
    text = httpx.get(f"{served.address}/metrics", headers=served.headers).text
    counts = (float(each.split()[-1]) for each in text.splitlines() if each.startswith(line))
    return next(counts, 0.0)
