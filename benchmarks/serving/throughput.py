"""What the gateway adds to an engine: MiniLM's tokens in, an embedding out, beside other servers.

The bare session runs in one loop of one process, with the same threads as the gateway's. Clients,
server and engine share this machine's cores, so that what clients cost is taken from all servers
alike, and not from the bare loop.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from benchmarks.harness import ours, subject
from benchmarks.harness.table import Goal, ResultTable, column, reason
from benchmarks.serving import servers
from benchmarks.serving.calls import TOKENS, Tensors, as_json, binary, feeds, of_mlflow
from benchmarks.serving.load import Call, TimedAnswers, ask
from benchmarks.serving.servers import Server
from infra.engines import open_target

CLIENTS, QUICK_CLIENTS = (1, 8, 64), (1, 8)
BATCHES = (1, 8)
SECONDS, QUICK_SECONDS = 3.0, 2.0
BARE, GATEWAY, MLFLOW = "bare session", "gateway", "mlflow models serve"
GRANIAN, MLSERVER, JSON = "gateway on Granian", "MLServer", "gateway, JSON"
WORKERS = "gateway, 2 workers"
SERVERS: tuple[
    tuple[str, Callable[[bytes], AbstractContextManager[Server]], Callable[[str, Tensors], Call]],
    ...,
] = (
    (GATEWAY, servers.gateway, binary),
    (JSON, servers.gateway, as_json),
    (WORKERS, servers.two_workers, binary),
    (GRANIAN, servers.granian, binary),
    (MLSERVER, servers.mlserver, as_json),
    (MLFLOW, servers.mlflow, of_mlflow),
)


@dataclass(frozen=True, slots=True)
class ServingRow:
    """Figures of one server at one batch and number of clients."""

    name: str = column("server")
    batch: int = column("rows a request", "d")
    clients: int | None = column("clients", "d")
    rows: float | None = column("rows/s", ".0f")
    of_bare: float | None = column("of the bare session", ".2f")
    median: float | None = column("p50 ms", ".2f")
    worst: float | None = column("p99 ms", ".2f")
    cpu: float | None = column("server's CPU, ms a row", ".2f")
    failed: int | None = column("failed", "d")
    why: str | None = reason("why not")


def measure(quick: bool) -> ResultTable:
    """Measure the gateway and its peers on one plan."""
    chosen = subject.minilm(quick)
    plan = ours.quantize(chosen, "int8-smooth").lowered("u8")
    seconds = QUICK_SECONDS if quick else SECONDS
    bare = {batch: _bare(plan, feeds(batch), seconds) for batch in BATCHES}
    rows = [_row(BARE, batch, None, each, each) for batch, each in bare.items()]
    for name, start, make in SERVERS:
        try:
            with start(plan) as server:
                rows += _rows(name, server, make, bare, quick)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            rows.append(ServingRow(name, 0, None, None, None, None, None, None, None, str(error)))
    return ResultTable(
        "serving",
        f"MiniLM in INT8 over HTTP, {TOKENS} tokens a row, clients on the same cores",
        rows,
        _goals(rows),
    )


Measured = tuple[TimedAnswers, float]
"""Answers, and the server's CPU seconds for them."""


def _rows(
    name: str,
    server: Server,
    make: Callable[[str, Tensors], Call],
    bare: dict[int, Measured],
    quick: bool,
) -> list[ServingRow]:
    rows = []
    for batch in BATCHES:
        call = make(server.address, feeds(batch))
        ask(call, 2, 1.0)
        for clients in QUICK_CLIENTS if quick else CLIENTS:
            before = server.cpu_seconds
            answers = ask(call, clients, QUICK_SECONDS if quick else SECONDS)
            measured = (answers, server.cpu_seconds - before)
            rows.append(_row(name, batch, clients, measured, bare[batch]))
    return rows


def _bare(plan: bytes, given: Tensors, seconds: float) -> Measured:
    """Run the engine in a loop."""
    engine, taken = open_target("onnxruntime-cpu").load(plan), list[float]()
    engine.run(given)
    started, before = time.perf_counter(), time.process_time()
    while time.perf_counter() < started + seconds:
        began = time.perf_counter()
        engine.run(given)
        taken.append(time.perf_counter() - began)
    answers = TimedAnswers(np.array(taken), time.perf_counter() - started, ())
    return answers, time.process_time() - before


def _row(
    name: str, batch: int, clients: int | None, measured: Measured, bare: Measured
) -> ServingRow:
    answers, cpu_seconds = measured
    return ServingRow(
        name,
        batch,
        clients,
        answers.throughput * batch,
        answers.throughput / bare[0].throughput,
        answers.milliseconds(50),
        answers.milliseconds(99),
        cpu_seconds * 1e3 / max(1, len(answers.seconds) * batch),
        len(answers.failures),
        answers.failures[0] if answers.failures else None,
    )


def _goals(rows: list[ServingRow]) -> tuple[Goal, ...]:
    def best(name: str, batch: int) -> float | None:
        reached = [row.of_bare or 0.0 for row in rows if (row.name, row.batch) == (name, batch)]
        return max(reached, default=None)

    def added(batch: int) -> float | None:
        bare = next(row.median for row in rows if (row.name, row.batch) == (BARE, batch))
        low = [
            row.median
            for row in rows
            if (row.name, row.batch, row.clients) == (GATEWAY, batch, 1) and row.median
        ]
        return low[0] - bare if low and bare else None

    goals = []
    for batch in BATCHES:
        of, peer, other = (best(name, batch) for name in (GATEWAY, MLFLOW, MLSERVER))
        rows_a_request = f"{batch} row{'s' * (batch > 1)} a request"
        goals += [
            Goal(f"{rows_a_request}, of the bare session's throughput:", 0.85, of),
            Goal(f"{rows_a_request}, p50 added at one client, ms:", 1.5, added(batch), "at most"),
            Goal(
                f"{rows_a_request}, times mlflow models serve:",
                5.0,
                of / peer if of and peer else None,
            ),
            Goal(f"{rows_a_request}, times MLServer:", 2.0, of / other if of and other else None),
        ]
    return tuple(goals)
