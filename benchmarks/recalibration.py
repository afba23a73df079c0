"""From texts to engines: ours with both engine builds, against the peers' calibration and graph alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks import ours, peers, subject
from benchmarks.pairs import Rounds
from benchmarks.peers import OURS, PERCENTILE, TENSORRT_BEST
from benchmarks.subject import Subject
from benchmarks.table import Goal, Table, column, reason

BUILDS = ("onnxruntime-cpu", "tensorrt-rtx")
DEFAULT = "ORT quantize_static, percentile"
FASTEST = "ORT quantize_static, percentile, MatMul inputs, one batch at a time"
"""Its own fastest way to a percentile graph that TensorRT takes; `CalibStridedMinMax` is documented for MinMax only."""
OPPONENTS = (
    peers.Contender(DEFAULT, peers.static(PERCENTILE, padded=True), quick=False),
    peers.Contender(FASTEST, peers.strided({**TENSORRT_BEST, **PERCENTILE})),
    peers.Contender("ORT quantize_static, MinMax, MatMul inputs", peers.static(TENSORRT_BEST)),
    peers.Contender("modelopt onnx, defaults (entropy)", peers.modelopt_onnx(None), patches=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One contender, or one phase of ours."""

    name: str = column("contender")
    seconds: float | None = column("s", ".2f")
    ratio: float | None = column("times as long as ours", ".2f")
    failure: str | None = reason("why not")


def measure(quick: bool) -> Table:
    """MiniLM and 128 English texts."""
    return compare(subject.minilm(quick), [peer for peer in OPPONENTS if peer.quick or not quick], 1 if quick else 3)


def compare(chosen: Subject, opponents: list[peers.Contender], rounds: int) -> Table:
    """Rounds in which everybody has one turn; medians over rounds."""
    clocks: list[Mapping[str, float]] = []
    seconds: dict[str, list[float]] = {peer.name: [] for peer in opponents}
    failures: dict[str, str] = {}
    for _ in range(rounds):
        clocks.append(_ours(chosen))
        for peer in opponents:
            if peer.name not in failures and not peer.patches:
                _turn(peer, chosen, seconds, failures)
    for peer in opponents:
        if peer.patches:
            _turn(peer, chosen, seconds, failures)
    totals = np.asarray([sum(clock.values()) for clock in clocks])
    # A peer that goes last has one round, which is held against our median.
    full = {name: np.resize(np.asarray(values), rounds) for name, values in seconds.items() if values}
    measured = Rounds({OURS: totals} | full)
    rows = [Row(f"{OURS}, with both engines", measured.median(OURS), 1.0, None), *_phases(clocks)]
    rows += [_row(measured, peer.name, failures.get(peer.name)) for peer in opponents]
    title = f"Recalibration, {chosen.name}, {len(chosen.calibration)} cases: wall time, median of {rounds} rounds"
    note = "Only ours includes building the ONNX Runtime and the TensorRT-RTX engine."
    return Table("recalibration", title, rows, _goals(rows), (note,))


def _ours(chosen: Subject) -> Mapping[str, float]:
    candidate = ours.quantize(chosen, "int8-smooth")
    for target in BUILDS:
        ours.build(chosen, candidate, target)
    return candidate.clock.seconds


def _turn(peer: peers.Contender, chosen: Subject, seconds: dict[str, list[float]], failures: dict[str, str]) -> None:
    """A peer that fails once is not asked again."""
    made = peers.make(chosen, peer)
    if isinstance(made, str):
        failures[peer.name] = made
    else:
        seconds[peer.name].append(made.seconds)


def _phases(clocks: list[Mapping[str, float]]) -> list[Row]:
    return [Row(f"  {phase}", float(np.median([clock[phase] for clock in clocks])), None, None) for phase in clocks[0]]


def _row(measured: Rounds, name: str, failure: str | None) -> Row:
    if failure is not None:
        return Row(name, None, None, failure)
    return Row(name, measured.median(name), measured.ratio(name, OURS)[0], None)


def _goals(rows: list[Row]) -> tuple[Goal, ...]:
    found = {row.name: row.ratio for row in rows}
    stated = Goal(f"times as fast as {DEFAULT}:", 3.0, found.get(DEFAULT))
    hardest = Goal(f"times as fast as {FASTEST}:", 3.0, found.get(FASTEST))
    return (stated, hardest)
