"""How close to full precision the INT8 graph stays that TensorRT can express."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import subject
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column, reason
from benchmarks.harness.turns import open_session
from benchmarks.peers import onnx_graphs
from benchmarks.peers.int8_work import int8_share
from benchmarks.peers.onnx_graphs import FP32, OURS, Graphs
from infra.engines import open_target
from infra.engines.onnx_sessions import OnnxRuntimeEngine
from infra.errors import BadInput, RequantError
from tasks.graphs.sites import layer_weight
from tasks.metrics.embeddings import cosine
from tasks.models.inputs import run_all

TITLE = "INT8 fidelity on ONNX Runtime CPU: cosine to FP32 on held-out cases, same calibration set"

NOTES = (
    "ONNX Runtime's static defaults also quantize the attention mask's addition, "
    "whose constant is the least float32.",
    "modelopt's torch path keeps FP32 weights behind a QuantizeLinear: "
    "the size is the file's, not the engine's.",
)


@dataclass(frozen=True, slots=True)
class FidelityRow:
    """Figures of one contender."""

    name: str = column("contender")
    mean: float | None = column("mean", ".4f")
    least: float | None = column("min", ".4f")
    other_mean: float | None = column("mean, others", ".4f")
    other_least: float | None = column("min, others", ".4f")
    fraction: float | None = column("MACs in INT8", ".1%")
    megabytes: float | None = column("MB", ".2f")
    seconds: float | None = column("s to make", ".1f")
    tensorrt_rtx: str = reason("TensorRT-RTX")


def measure(quick: bool) -> ResultTable:
    """Measure MiniLM on English and code, the calibration set's language.

    The other languages stand beside it.
    """
    return compare(subject.minilm(quick), onnx_graphs.contenders(quick))


def compare(chosen: Subject, opponents: tuple[onnx_graphs.Contender, ...]) -> ResultTable:
    """Compare all contenders on one subject.

    The first held-out group is judged, the last is reported beside it.
    """
    mine = judge(chosen, OURS, onnx_graphs.our_graphs(chosen))
    full = Graphs(chosen.source, chosen.source, 0.0)
    rows = [judge(chosen, FP32, full), mine, *(_peer(chosen, peer) for peer in opponents)]
    goals = (
        Goal("mean cosine of the English held-out cases", 0.995, mine.mean),
        Goal("least cosine of the English held-out cases", 0.98, mine.least),
        Goal("fraction of weight-product MACs in INT8", 0.9, mine.fraction),
    )
    counts = ", ".join(f"{len(cases)} {group}" for group, cases in chosen.held_out.items())
    counted = f"{chosen.name}: {len(chosen.calibration)} calibration cases; held out: {counts}."
    return ResultTable("fidelity", TITLE, rows, goals, (counted, *NOTES))


def judge(chosen: Subject, name: str, graphs: Graphs) -> FidelityRow:
    """Run one contender's graph over the held-out cases and offer it to TensorRT-RTX."""
    session = open_session(graphs.cpu)
    if isinstance(session, str):
        return _absent(name, f"ONNX Runtime cannot load it: {session}")
    engine = OnnxRuntimeEngine(session)
    scores = {
        group: cosine(chosen.expected[group], run_all(engine, chosen.inputs, cases))
        for group, cases in chosen.held_out.items()
    }
    judged, *_, beside = scores.values()
    return FidelityRow(
        name,
        *_mean_and_least(judged),
        *_mean_and_least(beside),
        int8_share(graphs.cpu, _weights(chosen)),
        len(graphs.cpu) / 1e6,
        graphs.seconds,
        accepted(chosen, graphs.gpu),
    )


def closeness(chosen: Subject, plan: bytes) -> tuple[float, float, float, float]:
    """Return mean and least cosine of the judged group, then of the one beside it.

    Raises:
        BadInput: When ONNX Runtime cannot load the graph.
    """
    session = open_session(plan)
    if isinstance(session, str):
        raise BadInput(f"ONNX Runtime cannot load the graph: {session}")
    engine = OnnxRuntimeEngine(session)
    judged, *_, beside = (
        cosine(chosen.expected[group], run_all(engine, chosen.inputs, cases))
        for group, cases in chosen.held_out.items()
    )
    return (*_mean_and_least(judged), *_mean_and_least(beside))


def accepted(chosen: Subject, graph: bytes) -> str:
    """Return "builds", or the first reason why TensorRT-RTX refuses the graph."""
    try:
        open_target("tensorrt-rtx").build(graph, chosen.inputs.profile)
    except RequantError as exc:
        return f"refused: {_reason(str(exc))}"
    return "builds"


def _reason(message: str) -> str:
    """Return the message in one line, without our own preamble."""
    return " ".join(message.partition("graph: ")[2].split() or message.split())


def _peer(chosen: Subject, peer: onnx_graphs.Contender) -> FidelityRow:
    graphs = onnx_graphs.graphs(chosen, peer)
    return (
        _absent(peer.name, graphs) if isinstance(graphs, str) else judge(chosen, peer.name, graphs)
    )


def _absent(name: str, reason: str) -> FidelityRow:
    return FidelityRow(name, None, None, None, None, None, None, None, f"no graph: {reason}")


def _mean_and_least(scores: NDArray[np.float64]) -> tuple[float, float]:
    return float(scores.mean()), float(scores.min())


def _weights(chosen: Subject) -> int:
    return sum(
        layer_weight(chosen.model, layer).size for site in chosen.sites for layer in site.layers
    )
