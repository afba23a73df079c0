"""What clients see while a promotion or a rollback swaps the release that answers them.

A forked process promotes and rolls back, so that the clients' process does nothing but ask. It
promotes at the priority of a maintenance run, and rolls back at that of a person's command.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

import numpy as np

from benchmarks.chaos.children import Child
from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.serving.calls import binary
from benchmarks.serving.load import TimedAnswers, ask, joined
from benchmarks.serving.workspace import ServedModel, registered, release, served_model, serving
from infra.settings import Settings, settings
from tasks.promotion.acts.promoting import promote, roll_back
from tasks.records import ReleaseRef

CLIENTS = 8
SWAPS, QUICK_SWAPS = 6, 2
"""Half of them promotions, half rollbacks, in turns."""
CALM_S, QUICK_CALM_S = 4.0, 2.0
"""Seconds before the first, and between two."""
PROMOTION, ROLLBACK = "promotion", "rollback"


@dataclass(frozen=True, slots=True)
class SwapRow:
    """What clients saw of one kind of swap."""

    name: str = column("swap")
    swaps: int = column("swaps", "d")
    answers: int = column("answers", "d")
    failed: int = column("failed", "d")
    before: float = column("p99 before, ms", ".0f")
    during: float = column("p99 during, ms", ".0f")
    median: float = column("until the other release answers, s, median", ".2f")
    worst: float = column("at most", ".2f")


@dataclass(frozen=True, slots=True)
class Swap:
    """One promotion or rollback; times are monotonic."""

    name: str
    began: float
    version: str  # what answers afterwards


def measure(quick: bool) -> ResultTable:
    """Swap two releases of one model under eight clients."""
    swaps, calm_s = (QUICK_SWAPS, QUICK_CALM_S) if quick else (SWAPS, CALM_S)
    model = served_model(quick)
    with registered(model.name) as chosen:
        first, others = releases(chosen, model, swaps)
        promote(first, None, "benchmark", "it passed")
        with serving(chosen, REQUANT_GATEWAY_CAPTURE="0") as served:
            call = binary(served.address, model.tensors, model.name, served.headers)
            ask(call, 2, 1.0)
            acting = Child(lambda: act(first, others, calm_s))
            spans = []
            while acting.lives:
                spans.append(ask(call, CLIENTS, calm_s, _version))
            spans.append(ask(call, CLIENTS, calm_s, _version))
            answers, ended = joined(spans), acting.end()
    if ended.code:
        raise RuntimeError(f"a swap failed: {ended.said}")
    acts = [Swap(*each) for each in ended.said]
    rows = [_row(name, answers, acts, calm_s) for name in (PROMOTION, ROLLBACK)]
    return ResultTable(
        "hot-swap",
        f"{model.name} under {CLIENTS} clients, while releases swap",
        rows,
        _goals(rows),
        (
            "During: from the act until a second after the other release's first answer; before: "
            "the two seconds before an act. Times are from the call that promotes or rolls back; a "
            "command's own start comes before it.",
        ),
    )


def releases(
    chosen: Settings, model: ServedModel, swaps: int
) -> tuple[ReleaseRef, list[ReleaseRef]]:
    """Return what reigns first, and what is promoted in half of so many swaps.

    Two others take turns, so that none of them is still loaded when it is promoted again.
    """
    plans = (model.plan, renamed(model.plan, 1), renamed(model.plan, 2))
    first, *others = (release(chosen, model.name, plan) for plan in plans)
    return first, list(islice(cycle(others), swaps // 2))


def act(first: ReleaseRef, others: Sequence[ReleaseRef], calm_s: float) -> list[list[object]]:
    """Promote one of the others, new to the gateway, and roll back to the first, in turns."""
    acts: list[list[object]] = []
    started = time.monotonic()
    for swap in range(2 * len(others)):
        time.sleep(max(0.0, started + (swap + 1) * calm_s - time.monotonic()))
        began = time.monotonic()
        if swap % 2:
            roll_back(first.model, first.version, "benchmark", "to measure it", f"swap {swap}")
            acts.append([ROLLBACK, began, first.version])
        else:
            new = others[swap // 2]
            _as_a_run(partial(promote, new, first.version, "benchmark", "it passed"))
            acts.append([PROMOTION, began, new.version])
    return acts


def _as_a_run(act: Callable[[], None]) -> None:
    """Act at the priority of a run that a worker started.

    It is that of one thread, as a process cannot take its own back.
    """

    def lowered() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, settings().run_nice)
        act()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lowered).result()


def renamed(plan: bytes, number: int) -> bytes:
    """Return the same graph as another file, one for each number."""
    import onnx

    model = onnx.load_from_string(plan)
    model.doc_string = f"another release, {number}"
    return bytes(model.SerializeToString())


def _version(body: bytes) -> str:
    _, _, rest = body.partition(b'"model_version":"')
    return rest.partition(b'"')[0].decode()


def _row(name: str, answers: TimedAnswers, acts: Sequence[Swap], calm_s: float) -> SwapRow:
    chosen = [act for act in acts if act.name == name]
    waits = [_wait(answers, act) for act in chosen]
    begins = answers.ends - answers.seconds
    during, before = np.zeros(len(begins), bool), np.zeros(len(begins), bool)
    for act, wait in zip(chosen, waits, strict=True):
        during |= (answers.ends >= act.began) & (begins <= act.began + min(wait, calm_s) + 1.0)
        before |= (answers.ends >= act.began - 2.0) & (answers.ends < act.began)
    return SwapRow(
        name,
        len(chosen),
        len(answers.seconds),
        len(answers.failures),
        _p99(answers.seconds[before]),
        _p99(answers.seconds[during]),
        float(np.median(waits)),
        max(waits),
    )


def _wait(answers: TimedAnswers, act: Swap) -> float:
    """Return the seconds from an act to the first answer of what it brought; infinite: none."""
    ends = zip(answers.ends, answers.marks, strict=True)
    firsts = (end for end, mark in ends if end >= act.began and mark == act.version)
    return next(firsts, float("inf")) - act.began


def _p99(seconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(np.percentile(seconds, 99)) * 1e3 if len(seconds) else float("nan")


def _goals(rows: Sequence[SwapRow]) -> tuple[Goal, ...]:
    _, rollback = rows
    ratio = max(row.during / row.before for row in rows)
    return (
        Goal("failed requests:", 0, rollback.failed, "at most"),
        Goal("p99 during a swap, times that before:", 2.0, ratio, "at most"),
        Goal("rollback to the old release's first answer, s:", 1.0, rollback.worst, "at most"),
    )
