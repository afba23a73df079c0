"""How fast the INT8 graphs are on ONNX Runtime's CPU provider, in turns with full precision."""

from dataclasses import dataclass

import numpy as np

from benchmarks.harness import subject
from benchmarks.harness.pairs import Rounds
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column, reason
from benchmarks.harness.turns import time_plans
from benchmarks.peers import onnx_graphs
from benchmarks.peers.onnx_graphs import FP32, OURS
from infra.engines.port import Arrays

BATCH, TOKENS = 8, 64
UNLOADABLE = "ONNX Runtime: it did not load the graph in several attempts"


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Figures of one contender, with all cores and with one."""

    name: str = column("contender")
    milliseconds: float | None = column("ms a batch", ".2f")
    speedup: float | None = column("times as fast as FP32", ".2f")
    low: float | None = column("10th pct.", ".2f")
    high: float | None = column("90th pct.", ".2f")
    one_core: float | None = column("ms, one core", ".2f")
    one_core_speedup: float | None = column("times as fast, one core", ".2f")
    failure: str | None = reason("why not")


def measure(quick: bool) -> ResultTable:
    """Measure MiniLM on 8 texts of 64 tokens, with every contender of the fidelity table."""
    chosen = subject.minilm(quick)
    return compare(
        chosen, onnx_graphs.contenders(quick), full_texts(chosen), rounds=7 if quick else 21
    )


def compare(
    chosen: Subject, opponents: tuple[onnx_graphs.Contender, ...], feeds: Arrays, rounds: int
) -> ResultTable:
    """Compare all contenders in interleaved rounds on one batch."""
    plans, failures = _plans(chosen, opponents)
    every, single = (time_plans(plans, feeds, rounds, threads) for threads in (0, 1))
    timed = [name for name in plans if name in every.seconds and name in single.seconds]
    failures |= {name: UNLOADABLE for name in plans if name not in timed}
    rows = [_row(every, single, name) for name in timed]
    rows += [
        LatencyRow(name, None, None, None, None, None, None, why) for name, why in failures.items()
    ]
    speedup = next(row.speedup for row in rows if row.name == OURS)
    shape = " × ".join(map(str, next(iter(feeds.values())).shape))
    title = (
        f"Latency on ONNX Runtime CPU, {chosen.name}, batch {shape}, "
        f"median of {rounds} interleaved rounds"
    )
    return ResultTable(
        "latency", title, rows, (Goal("ours, times as fast as FP32:", 1.5, speedup),)
    )


def full_texts(chosen: Subject) -> Arrays:
    """Return a batch of texts that fill all tokens, so that no contender works on padding."""
    full_rows: list[Arrays] = []
    for batch in chosen.inputs.batches(
        [row.payload for row in chosen.traffic if row.language == "en"]
    ):
        full = np.flatnonzero(batch.feeds["attention_mask"].sum(axis=1) >= TOKENS)
        full_rows += [
            {name: value[row, :TOKENS] for name, value in batch.feeds.items()} for row in full
        ]
        if len(full_rows) >= BATCH:
            break
    return {name: np.stack([feeds[name] for feeds in full_rows[:BATCH]]) for name in full_rows[0]}


def _plans(
    chosen: Subject, opponents: tuple[onnx_graphs.Contender, ...]
) -> tuple[dict[str, bytes], dict[str, str]]:
    plans, failures = {FP32: chosen.source, OURS: onnx_graphs.our_graphs(chosen).cpu}, {}
    for peer in opponents:
        graphs = onnx_graphs.graphs(chosen, peer)
        if isinstance(graphs, str):
            failures[peer.name] = graphs
        else:
            plans[peer.name] = graphs.cpu
    return plans, failures


def _row(every: Rounds, single: Rounds, name: str) -> LatencyRow:
    speedups = every.ratio(FP32, name)
    return LatencyRow(
        name,
        every.median(name) * 1e3,
        *speedups,
        single.median(name) * 1e3,
        single.ratio(FP32, name)[0],
        None,
    )
