"""A recognizer over a stream: how long until the first word, how fast, and what chunks cost.

Several golden recordings follow each other with pauses between them, as the gateway hears a longer
recording. Audio comes at its own pace: a first word can be written when its chunk is over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.subject import EXAMPLES
from benchmarks.harness.table import Goal, ResultTable, column
from flows.gateway.fronts import SpeechFront
from infra.engines import open_target
from tasks.metrics.error_rates import word_error_rate
from tasks.models.export import export
from tasks.models.golden import read_golden
from tasks.models.inputs import open_inputs, speech_inputs
from tasks.specs.spec import load_spec

CHUNKS_S: tuple[float | None, ...] = (0.3, 0.6, 0.8, None)
"""Seconds of a chunk; None: as long as the model hears."""
STREAMS, QUICK_STREAMS = 12, 2
TOGETHER = 4
"""Recordings of a stream."""
PAUSE_S = 0.3


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """One size of chunks."""

    name: str = column("chunk")
    error_rate: float = column("word error rate", ".3f")
    first: float = column("first word, s after its beginning, median", ".2f")
    real_time: float = column("real-time factor", ".3f")


def measure(quick: bool) -> ResultTable:
    """Write the same streams down in chunks of several sizes."""
    front, rate, streams = _open(QUICK_STREAMS if quick else STREAMS)
    rows = [_row(front, rate, streams, seconds) for seconds in CHUNKS_S]
    return ResultTable(
        "streaming-speech",
        f"digits-spoken over streams of {TOGETHER} recordings, in chunks cut where it is quiet",
        rows,
        (Goal("real-time factor:", 1.0, max(row.real_time for row in rows), "at most"),),
    )


Stream = tuple[NDArray[np.float32], str]
"""A recording [samples], and what is said in it."""


def _open(count: int) -> tuple[SpeechFront, int, list[Stream]]:
    path = EXAMPLES / "speech" / "model.yaml"
    spec = load_spec(path)
    graph = export(spec, path.parent)
    engine = open_target("onnxruntime-cpu").load(graph.SerializeToString())
    tokenizer = (path.parent / "tokenizer.json").read_bytes()
    inputs = speech_inputs(open_inputs(spec, tokenizer, graph, lambda: engine))
    golden = (path.parent / "golden.parquet").read_bytes()
    cases = read_golden(golden, None, where="the golden set of speech").cases
    pause = np.zeros(int(PAUSE_S * inputs.rate), np.float32)
    streams = []
    for start in range(0, count * TOGETHER, TOGETHER):
        chosen = [case for case in cases[start : start + TOGETHER] if case.label]
        waves = [part for case in chosen for part in (np.asarray(case.payload, np.float32), pause)]
        streams.append((np.concatenate(waves), " ".join(str(case.label) for case in chosen)))
    return SpeechFront(engine, inputs), inputs.rate, streams


def _row(
    front: SpeechFront, rate: int, streams: Sequence[Stream], seconds: float | None
) -> ChunkRow:
    errors, firsts, spent, heard = list[float](), list[float](), 0.0, 0.0
    for wave, label in streams:
        said, over = list[str](), 0.0
        for chunk in front.chunks(wave, seconds):
            began = time.perf_counter()
            words = front.transcript(chunk)
            took = time.perf_counter() - began
            over, spent = over + len(chunk) / rate, spent + took
            if words and not said:
                firsts.append(over + took)
            said += [words] if words else []
        heard += len(wave) / rate
        errors.append(word_error_rate(label, " ".join(said)))
    name = "as long as it hears" if seconds is None else f"{seconds:g} s"
    middle = float(np.median(firsts)) if firsts else float("nan")
    return ChunkRow(name, float(np.mean(errors)), middle, spent / heard)
