"""What the gateway adds to an engine: MiniLM's tokens in, an embedding out, beside other servers.

The bare session runs in one loop of one process, with the same threads as the gateway's. It takes
turns with each server, as this machine is not equally fast every minute: what a server adds and
its share of the bare session's throughput are medians over rounds, each within one round. Clients,
server and engine share this machine's cores, so that what clients cost is taken from all servers
alike, and not from the bare loop.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from benchmarks.harness import ours, subject
from benchmarks.harness.table import Goal, ResultTable, column, reason
from benchmarks.serving import servers
from benchmarks.serving.calls import TOKENS, Tensors, as_json, binary, feeds, of_mlflow
from benchmarks.serving.load import Call, TimedAnswers, ask, joined
from benchmarks.serving.servers import Server
from infra.engines import open_target
from infra.engines.port import Engine

CLIENTS, QUICK_CLIENTS = (1, 8, 64), (1, 8)
BATCHES = (1, 8)
ROUNDS, QUICK_ROUNDS = 7, 3
SECONDS, QUICK_SECONDS = 1.0, 0.5
"""Of each turn."""
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
    """Figures of one server at one batch and number of clients, medians of its rounds."""

    name: str = column("server")
    batch: int = column("rows a request", "d")
    clients: int | None = column("clients", "d")
    rows: float | None = column("rows/s", ".0f")
    of_bare: float | None = column("of the bare session", ".2f")
    median: float | None = column("p50 ms", ".2f")
    added: float | None = column("p50 added, ms", ".2f")
    spread: str | None = column("from, to")
    worst: float | None = column("p99 ms", ".2f")
    cpu: float | None = column("server's CPU, ms a row", ".2f")
    failed: int | None = column("failed", "d")
    why: str | None = reason("why not")


@dataclass(frozen=True, slots=True)
class TimedTurn:
    """What one contender did in its turn of a round."""

    answers: TimedAnswers
    cpu_seconds: float  # of the server

    @property
    def p50(self) -> float:
        """Return the median in milliseconds."""
        return self.answers.milliseconds(50)


def measure(quick: bool) -> ResultTable:
    """Measure the gateway and its peers on one plan."""
    chosen = subject.minilm(quick)
    plan = ours.quantize(chosen, "int8-smooth").lowered("u8")
    bare = open_target("onnxruntime-cpu").load(plan)
    rows = []
    for name, start, make in SERVERS:
        try:
            with start(plan) as server:
                rows += _rows(name, server, make, bare, quick)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            rows.append(_refused(name, str(error)))
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if quick else (ROUNDS, SECONDS)
    notes = (
        f"Medians of {rounds} rounds; in each, the bare session's loop and a server's clients take "
        f"turns of {seconds} s. From, to: the least and the most that a round's p50 added.",
    )
    return ResultTable(
        "serving",
        f"MiniLM in INT8 over HTTP, {TOKENS} tokens a row, clients on the same cores",
        rows,
        _goals(rows),
        notes,
    )


def _rows(
    name: str, server: Server, make: Callable[[str, Tensors], Call], bare: Engine, quick: bool
) -> list[ServingRow]:
    rows = []
    seconds = QUICK_SECONDS if quick else SECONDS
    for batch in BATCHES:
        given = feeds(batch)
        call = make(server.address, given)
        ask(call, 2, 1.0)
        turns: dict[int | None, Callable[[], TimedTurn]] = {
            None: partial(_loop, bare, given, seconds)
        }
        for clients in QUICK_CLIENTS if quick else CLIENTS:
            turns[clients] = partial(_asked, server, call, clients, seconds)
        rounds = _interleaved(turns, QUICK_ROUNDS if quick else ROUNDS)
        loops = rounds.pop(None)
        if name == GATEWAY:
            rows.append(_row(BARE, batch, None, loops, loops))
        rows += [_row(name, batch, clients, taken, loops) for clients, taken in rounds.items()]
    return rows


def _interleaved(
    turns: Mapping[int | None, Callable[[], TimedTurn]], rounds: int
) -> dict[int | None, list[TimedTurn]]:
    """Let all take their turn in each round; which is the first moves on by one."""
    order = list(turns)
    taken = {clients: list[TimedTurn]() for clients in order}
    for number in range(rounds):
        start = number % len(order)
        for clients in [*order[start:], *order[:start]]:
            taken[clients].append(turns[clients]())
    return taken


def _asked(server: Server, call: Call, clients: int, seconds: float) -> TimedTurn:
    before = server.cpu_seconds
    answers = ask(call, clients, seconds)
    return TimedTurn(answers, server.cpu_seconds - before)


def _loop(engine: Engine, given: Tensors, seconds: float) -> TimedTurn:
    """Run the engine in a loop."""
    taken = list[float]()
    engine.run(given)
    started, before = time.perf_counter(), time.process_time()
    while time.perf_counter() < started + seconds:
        began = time.perf_counter()
        engine.run(given)
        taken.append(time.perf_counter() - began)
    answers = TimedAnswers(np.array(taken), time.perf_counter() - started, ())
    return TimedTurn(answers, time.process_time() - before)


def _row(
    name: str,
    batch: int,
    clients: int | None,
    turns: Sequence[TimedTurn],
    bare: Sequence[TimedTurn],
) -> ServingRow:
    pairs = list(zip(turns, bare, strict=True))
    added = [turn.p50 - loop.p50 for turn, loop in pairs]
    answers = joined([turn.answers for turn in turns])
    return ServingRow(
        name,
        batch,
        clients,
        float(median(turn.answers.throughput for turn in turns)) * batch,
        float(median(turn.answers.throughput / loop.answers.throughput for turn, loop in pairs)),
        float(median(turn.p50 for turn in turns)),
        float(median(added)) if clients == 1 else None,
        f"{min(added):.2f}, {max(added):.2f}" if clients == 1 else None,
        answers.milliseconds(99),
        sum(turn.cpu_seconds for turn in turns) * 1e3 / max(1, len(answers.seconds) * batch),
        len(answers.failures),
        answers.failures[0] if answers.failures else None,
    )


def _refused(name: str, why: str) -> ServingRow:
    return ServingRow(name, 0, None, None, None, None, None, None, None, None, None, why)


def _goals(rows: list[ServingRow]) -> tuple[Goal, ...]:
    def best(name: str, batch: int) -> float | None:
        reached = [row.of_bare or 0.0 for row in rows if (row.name, row.batch) == (name, batch)]
        return max(reached, default=None)

    def added(batch: int) -> float | None:
        low = [
            row.added for row in rows if (row.name, row.batch, row.clients) == (GATEWAY, batch, 1)
        ]
        return low[0] if low else None

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
