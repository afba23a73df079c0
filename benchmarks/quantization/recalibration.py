"""How long it takes from texts to engines.

Ours builds both engines; the peers only calibrate and write a graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.harness import ours, subject
from benchmarks.harness.pairs import Rounds
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column, reason
from benchmarks.peers import onnx_graphs, toolkits
from benchmarks.peers.onnx_graphs import OURS, PERCENTILE, TENSORRT_BEST, Contender
from benchmarks.quantization.fidelity import accepted, closeness
from infra.errors import BadInput

BUILDS = ("onnxruntime-cpu", "tensorrt-rtx")
DEFAULT = "ORT quantize_static, percentile"
FASTEST = "ORT quantize_static, percentile, MatMul inputs, one batch at a time"
"""ONNX Runtime's own fastest way to a percentile graph that TensorRT takes.

`CalibStridedMinMax` is documented for MinMax only.
"""
SCALES_ONLY = "Requant recalibrate (new scales only), with both engines"
OPPONENTS = (
    Contender(DEFAULT, onnx_graphs.static(PERCENTILE, padded=True), quick=False),
    Contender(FASTEST, onnx_graphs.strided({**TENSORRT_BEST, **PERCENTILE})),
    Contender("ORT quantize_static, MinMax, MatMul inputs", onnx_graphs.static(TENSORRT_BEST)),
    Contender("NNCF, transformer", toolkits.nncf(transformer=True, symmetric=False), quick=False),
    Contender(
        "NNCF, transformer, symmetric", toolkits.nncf(transformer=True, symmetric=True), quick=False
    ),
    Contender(
        "modelopt torch INT8_SMOOTHQUANT_CFG",
        onnx_graphs.modelopt_torch("INT8_SMOOTHQUANT_CFG"),
        quick=False,
    ),
    Contender("modelopt onnx, defaults (entropy)", onnx_graphs.modelopt_onnx(None), patches=True),
)


@dataclass(frozen=True, slots=True)
class RecalibrationRow:
    """Figures of one contender, or of one phase of ours."""

    name: str = column("contender")
    seconds: float | None = column("s", ".2f")
    ratio: float | None = column("times as long as ours", ".2f")
    mean: float | None = column("cosine, mean", ".4f")
    least: float | None = column("min", ".4f")
    tensorrt_rtx: str | None = reason("TensorRT-RTX")
    failure: str | None = reason("why not")


@dataclass(slots=True)
class _Turns:
    """What one contender has done so far."""

    seconds: list[float] = field(default_factory=list)
    graph: bytes = b""
    failure: str | None = None


def measure(quick: bool) -> ResultTable:
    """Measure MiniLM on 128 English texts."""
    return compare(
        subject.minilm(quick),
        [peer for peer in OPPONENTS if peer.quick or not quick],
        1 if quick else 3,
    )


def compare(chosen: Subject, opponents: Sequence[Contender], rounds: int) -> ResultTable:
    """Give everybody one turn a round, and take medians over rounds."""
    mine: list[tuple[ours.Candidate, ours.Candidate]] = []
    turns = {peer.name: _Turns() for peer in opponents}
    for _ in range(rounds):
        mine.append(_ours(chosen))
        for peer in opponents:
            if not peer.patches:
                _turn(peer, chosen, turns[peer.name])
    for peer in opponents:
        if peer.patches:
            _turn(peer, chosen, turns[peer.name])
    # A peer that goes last has one round, which is held against our median.
    clocks = {
        OURS: [full.clock.total for full, _ in mine],
        SCALES_ONLY: [again.clock.total for _, again in mine],
    }
    clocks |= {name: turn.seconds for name, turn in turns.items() if turn.seconds}
    measured = Rounds(
        {name: np.resize(np.asarray(values), rounds) for name, values in clocks.items()}
    )
    full, again = mine[0]
    rows = [
        _row(measured, chosen, OURS, full.lowered("u8"), f"{OURS}, with both engines"),
        *_phases([full.clock.seconds for full, _ in mine]),
        _row(measured, chosen, SCALES_ONLY, again.lowered("u8")),
        *_phases([again.clock.seconds for _, again in mine]),
        *(_peer(measured, chosen, name, turn) for name, turn in turns.items()),
    ]
    title = (
        f"Recalibration, {chosen.name}, {len(chosen.calibration)} cases: "
        f"wall time, median of {rounds} rounds"
    )
    note = "Only ours includes building the ONNX Runtime and the TensorRT-RTX engine."
    return ResultTable("recalibration", title, rows, goals(rows), (note,))


def goals(rows: Sequence[RecalibrationRow]) -> tuple[Goal, ...]:
    """Hold ours against peers and against itself.

    The peers are the named ones, and the fastest that is at least as faithful (or the most
    faithful).
    """
    by_name = {row.name: row for row in rows}
    mine = rows[0]
    judged = [
        row
        for row in rows
        if row.name in {peer.name for peer in OPPONENTS} and row.mean is not None
    ]
    equal = [row for row in judged if (row.mean or 0) >= (mine.mean or 0)]
    rival = min(equal, key=lambda row: row.seconds or 0.0, default=None)
    if rival is None:
        rival = max(judged, key=lambda row: row.mean or 0.0, default=None)
        description = "the most faithful peer (none is as faithful as ours)"
    else:
        description = "the fastest peer that is as faithful"
    named = [
        Goal(f"times as fast as {name}:", 3.0, by_name[name].ratio)
        for name in (DEFAULT, FASTEST)
        if name in by_name
    ]
    again = by_name[SCALES_ONLY].seconds
    return (
        *named,
        Goal(
            f"times as fast as {description}, {rival.name if rival else 'of which none ran'}:",
            8.0,
            rival and rival.ratio,
        ),
        Goal(
            "new scales only, times as fast as the whole re-quantization:",
            3.0,
            mine.seconds / again if mine.seconds and again else None,
        ),
    )


def _ours(chosen: Subject) -> tuple[ours.Candidate, ours.Candidate]:
    """Make a whole re-quantization, then one that keeps its graph."""
    full = ours.quantize(chosen, "int8-smooth")
    again = ours.quantize(chosen, "recalibrate", champion=full)
    for candidate in (full, again):
        for target in BUILDS:
            ours.build(chosen, candidate, target)
    return full, again


def _turn(peer: Contender, chosen: Subject, turn: _Turns) -> None:
    """Give a peer its turn; one that fails once is not asked again."""
    if turn.failure is not None:
        return
    graphs = onnx_graphs.make(chosen, peer)
    if isinstance(graphs, str):
        turn.failure = graphs
    else:
        turn.seconds.append(graphs.seconds)
        turn.graph = graphs.cpu


def _phases(clocks: Sequence[Mapping[str, float]]) -> list[RecalibrationRow]:
    return [
        RecalibrationRow(
            f"  {phase}",
            float(np.median([clock[phase] for clock in clocks])),
            None,
            None,
            None,
            None,
            None,
        )
        for phase in clocks[0]
    ]


def _peer(measured: Rounds, chosen: Subject, name: str, turn: _Turns) -> RecalibrationRow:
    if turn.failure is not None:
        return RecalibrationRow(name, None, None, None, None, None, turn.failure)
    return _row(measured, chosen, name, turn.graph)


def _row(
    measured: Rounds, chosen: Subject, name: str, graph: bytes, title: str | None = None
) -> RecalibrationRow:
    seconds, ratio = measured.median(name), measured.ratio(name, OURS)[0]
    builds = None if title or name == SCALES_ONLY else accepted(chosen, graph)
    try:
        mean, least, *_ = closeness(chosen, graph)
    except BadInput as exc:
        return RecalibrationRow(title or name, seconds, ratio, None, None, builds, str(exc))
    return RecalibrationRow(title or name, seconds, ratio, mean, least, builds, None)
