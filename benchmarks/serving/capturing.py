"""What the live sample costs, and what kills take from it.

Throughput: two gateways over one workspace, one of which samples a tenth of the requests; clients
ask them in turns. Kills: a forked process samples, and is killed at a random moment; what the store
holds afterwards is compared with what its flushes had reported until then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count

import numpy as np

from benchmarks.chaos.children import Child
from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.serving.calls import binary
from benchmarks.serving.load import TimedAnswers, ask
from benchmarks.serving.workspace import (
    ServedModel,
    registered,
    release,
    served_model,
    serving,
    stored_ids,
)
from flows.gateway.capturing import traffic_writer
from infra.gateway.capture import Capture, ServedExchange
from infra.gateway.metrics import GatewayMetrics
from infra.settings import Settings
from tasks.promotion.acts.promoting import promote

CLIENTS = 8
TURNS, QUICK_TURNS = 16, 2
SECONDS = 1.5
"""Of a turn: short ones share what else the machine does."""
KILLS, QUICK_KILLS = 100, 5
LIFE_S, INTERVAL_S = 0.8, 0.2
"""The longest life of a process that is killed, and the seconds between two of its flushes."""
A_SECOND = 200
"""Requests that it samples."""


@dataclass(frozen=True, slots=True)
class SampledRow:
    """Throughput with and without a sample."""

    name: str = column("sample")
    requests: float = column("requests/s", ".1f")
    cpu: float = column("server's CPU, ms a request", ".3f")
    failed: int = column("failed", "d")
    kept: int | None = column("rows sampled", "d")
    stored: int | None = column("rows stored", "d")
    lost: int | None = column("rows lost that a flush had reported", "d")
    doubled: int | None = column("rows doubled", "d")
    waiting: int | None = column("rows that waited at a kill, at most", "d")


def measure(quick: bool) -> ResultTable:
    """Measure throughput in turns, then kill."""
    model = served_model(quick)
    with registered(model.name) as chosen:
        promote(release(chosen, model.name, model.plan), None, "benchmark", "it passed")
        rows = _throughput(chosen, model, QUICK_TURNS if quick else TURNS)
        killed = _killed(chosen, model.name, QUICK_KILLS if quick else KILLS)
    none, tenth = rows
    share = 1 - tenth.requests / none.requests
    return ResultTable(
        "capture",
        f"{model.name} under {CLIENTS} clients, sampled and not; then processes that are killed",
        [*rows, killed],
        (
            Goal("throughput that sampling a tenth costs:", 0.03, share, "at most"),
            Goal("rows lost that a flush had reported:", 0, killed.lost, "at most"),
            Goal("rows doubled:", 0, killed.doubled, "at most"),
            Goal(
                "rows that waited at a kill, at most, times a flush interval's:",
                2.0,
                (killed.waiting or 0) / (A_SECOND * INTERVAL_S),
                "at most",
            ),
        ),
    )


def _throughput(chosen: Settings, model: ServedModel, turns: int) -> list[SampledRow]:
    with (
        serving(chosen, REQUANT_GATEWAY_CAPTURE="0") as none,
        serving(chosen, REQUANT_GATEWAY_CAPTURE="0.1") as tenth,
    ):
        names = {"none": none, "a tenth": tenth}
        calls = {
            name: binary(each.address, model.tensors, model.name, each.headers)
            for name, each in names.items()
        }
        for call in calls.values():
            ask(call, 2, 1.0)
        answers: dict[str, list[TimedAnswers]] = {name: [] for name in names}
        spent = dict.fromkeys(names, 0.0)
        for turn in range(turns):
            for name in list(names)[:: -1 if turn % 2 else 1]:
                before = names[name].server.cpu_seconds
                answers[name].append(ask(calls[name], CLIENTS, SECONDS))
                spent[name] += names[name].server.cpu_seconds - before
        return [_sampled(name, answers[name], spent[name]) for name in names]


def _sampled(name: str, turns: Sequence[TimedAnswers], cpu_seconds: float) -> SampledRow:
    answered = sum(len(turn.seconds) for turn in turns)
    return SampledRow(
        name,
        answered / sum(turn.span for turn in turns),
        cpu_seconds * 1e3 / max(1, answered),
        sum(len(turn.failures) for turn in turns),
        *(None,) * 5,
    )


def _killed(chosen: Settings, model: str, kills: int) -> SampledRow:
    rng, reported, kept, waiting = np.random.default_rng(0), set[str](), 0, 0
    began = time.monotonic()
    for kill in range(kills):
        log = chosen.root / f"kill-{kill}.log"
        child = Child(lambda kill=kill, log=log: _sample(chosen, model, kill, str(log)))
        child.kill_after(float(rng.uniform(0.05, LIFE_S)))
        child.end()
        lines = log.read_text().splitlines() if log.exists() else []
        whole = [line for line in lines if line.endswith(".")]
        flushed = [name for line in whole if line[0] == "f" for name in line[1:-1].split()]
        sampled = [line[1:-1] for line in whole if line[0] == "k"]
        reported |= set(flushed)
        kept += len(sampled)
        waiting = max(waiting, len(set(sampled) - set(flushed)))
    span = time.monotonic() - began
    from_kills = [name for name in stored_ids(chosen, model) if name.startswith("kill-")]
    return SampledRow(
        f"{kills} kills",
        kept / span,
        0.0,
        0,
        kept,
        len(from_kills),
        len(reported - set(from_kills)),
        len(from_kills) - len(set(from_kills)),
        waiting,
    )


def _sample(chosen: Settings, model: str, kill: int, log: str) -> None:
    """Sample requests until killed, and note each, and each flush that the store took."""
    note = _noting(log)
    write = traffic_writer(chosen, model)

    def store(exchanges: Sequence[ServedExchange]) -> int:
        dropped = write(exchanges)
        note("f" + " ".join(exchange.request_id for exchange in exchanges))
        return dropped

    capture = Capture[ServedExchange](
        model, store, GatewayMetrics(), fraction=1.0, interval_s=INTERVAL_S
    )
    capture.start()
    for number in count():
        name = f"kill-{kill}-{number}"
        note(f"k{name}")
        text = f"text {number} of process {kill}"
        capture.keep(ServedExchange(name, datetime.now(UTC), 1.0, "1", {}, text))
        time.sleep(1 / A_SECOND)


def _noting(log: str) -> Callable[[str], None]:
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def note(line: str) -> None:
        os.write(file, f"{line}.\n".encode())

    return note
