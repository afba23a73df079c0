"""Whether INT8 convolutional networks run in INT8 on ONNX Runtime's CPU provider, and gain by it.

PP-OCR's three models as their package ships them, and the digits: Requant's own path beside the
quantizers that people use, each at its best setting for this runtime.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization import quantize_static as ort_quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.harness import ours, subject
from benchmarks.harness.pairs import Rounds
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column, reason
from benchmarks.harness.turns import open_session, time_plans
from benchmarks.kernels import text_images
from benchmarks.kernels.profile import integer_fraction
from benchmarks.kernels.text_images import DRAWN, RenderedImage, subject_of
from benchmarks.peers import onnx_graphs, toolkits
from benchmarks.peers.onnx_graphs import FP32, Contender, Reader
from infra.engines import open_target
from infra.engines.port import Arrays
from tasks.metrics.custom.labelled import read_text
from tasks.metrics.custom.options import Options
from tasks.metrics.error_rates import error_rate

OURS = "Requant int8-smooth"
CALIBRATION, FIRST = {"det": 8, "rec": 64, "cls": 64}, 1000
JUDGED = {"det": 16, "rec": 256, "cls": 256}
MODELOPT = tuple(
    Contender(f"modelopt onnx, {method}", onnx_graphs.modelopt_onnx(method))
    for method in ("max", "entropy")
)
HOME = "exposure-1"
MAP_THRESHOLD = 0.3
"""Of the detector's map, as its package sets it."""
Answers = Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class KernelsRow:
    """Figures of one contender on one model."""

    model: str = column("model")
    name: str = column("contender")
    milliseconds: float | None = column("ms, one thread", ".2f")
    one_thread: float | None = column("× FP32", ".2f")
    two_threads: float | None = column("× FP32, two", ".2f")
    integers: float | None = column("INT8 products", ".1%")
    quality: float | None = column("quality", ".4f")
    same: float | None = column("same text", ".1%")
    failure: str | None = reason("why not")


@dataclass(frozen=True, slots=True, eq=False)
class TimedModel:
    """One model with what is timed and how it is judged."""

    subject: Subject
    feeds: Arrays
    judge: Callable[[Answers, Answers], tuple[float, float | None]]  # (answers, full precision's)


def measure(quick: bool) -> ResultTable:
    """Measure all four models with every contender that fits.

    modelopt comes last, for all of them: it leaves ONNX Runtime's own quantizer changed in the
    process.
    """
    chosen = models(quick)
    made = {model.subject.name: peer_graphs(model, contenders(quick)) for model in chosen}
    for model in () if quick else chosen:
        made[model.subject.name] |= peer_graphs(model, MODELOPT)
    rows: list[KernelsRow] = []
    goals: list[Goal] = []
    for model in chosen:
        mine = compare(model, made[model.subject.name], rounds=5 if quick else 21)
        rows += mine
        goals += _goals(model, mine)
    return ResultTable(
        "int8-kernels",
        "INT8 on ONNX Runtime CPU, one case at a time; quality: det IoU of maps with FP32's, "
        "rec CER, cls and digits accuracy",
        rows,
        tuple(goals),
    )


def models(quick: bool) -> tuple[TimedModel, ...]:
    """Return detector, recognizer, classifier and digits."""
    return (*(_ocr(name, quick) for name in DRAWN), _digits(quick))


def peer_graphs(model: TimedModel, peers: Sequence[Contender]) -> dict[str, bytes | str]:
    """Return each peer's graph, or why there is none, by name."""
    made = {peer.name: onnx_graphs.make(model.subject, peer) for peer in peers}
    return {
        name: graphs if isinstance(graphs, str) else graphs.cpu for name, graphs in made.items()
    }


def contenders(quick: bool) -> tuple[Contender, ...]:
    """Return the peers: ONNX Runtime's quantizer in four settings, and NNCF."""
    ways = [("MinMax", QuantType.QUInt8)]
    if not quick:
        ways += [
            (m, t) for m in ("MinMax", "Percentile") for t in (QuantType.QUInt8, QuantType.QInt8)
        ]
    own = tuple(
        Contender(f"ORT quantize_static {kind.name[1:]}, {method}", _static(method, kind))
        for method, kind in dict.fromkeys(ways)
    )
    nncf = Contender("NNCF, defaults", toolkits.nncf(transformer=False, symmetric=False))
    return own if quick else (*own, nncf)


def compare(model: TimedModel, made: Mapping[str, bytes | str], rounds: int) -> list[KernelsRow]:
    """Time all contenders in interleaved rounds on one case, and judge what they answer.

    `made` holds each peer's graph, or why there is none.
    """
    plans = {
        FP32: model.subject.source,
        OURS: ours.quantize(model.subject, "int8-smooth").lowered("u8"),
        **{name: graph for name, graph in made.items() if isinstance(graph, bytes)},
    }
    failures = {name: reason for name, reason in made.items() if isinstance(reason, str)}
    for name in list(plans):
        opened = open_session(plans[name])
        if isinstance(opened, str):
            failures[name] = opened
            del plans[name]
    single, both = (time_plans(plans, model.feeds, rounds, threads) for threads in (1, 2))
    exact = _answers(model, plans[FP32])
    rows = [_row(model, name, plan, (single, both), exact) for name, plan in plans.items()]
    nothing = (None,) * 6
    return rows + [
        KernelsRow(model.subject.name, name, *nothing, why) for name, why in failures.items()
    ]


def _row(
    model: TimedModel, name: str, plan: bytes, timed: tuple[Rounds, Rounds], exact: Answers
) -> KernelsRow:
    quality, same = model.judge(_answers(model, plan), exact)
    return KernelsRow(
        model.subject.name,
        name,
        timed[0].median(name) * 1e3,
        timed[0].ratio(name, FP32)[0],
        timed[1].ratio(name, FP32)[0],
        integer_fraction(plan, model.feeds),
        quality,
        same,
        None,
    )


def _answers(model: TimedModel, plan: bytes) -> Answers:
    engine = open_target("onnxruntime-cpu").load(plan)
    chosen = model.subject
    return [
        engine.run(single.feeds)[chosen.inputs.output][0]
        for cases in chosen.held_out.values()
        for batch in chosen.inputs.batches(cases)
        for single in batch.parts(1)
    ]


def _goals(model: TimedModel, rows: Sequence[KernelsRow]) -> list[Goal]:
    mine = next(row for row in rows if row.name == OURS)
    full = next(row for row in rows if row.name == FP32)
    name = model.subject.name
    most = {"det": 0.6, "rec": 0.6, "cls": 0.95, "digits": 1.0}[name]
    slower = max(mine.one_thread or np.inf, mine.two_threads or np.inf)
    goals = [
        Goal(
            f"{name}, times FP32's latency, the slower of one thread and two:",
            most,
            slower,
            "at most",
        ),
        Goal(f"{name}, multiply-accumulates in INT8 kernels:", 0.9, mine.integers),
    ]
    lost = (full.quality or 0.0) - (mine.quality or 0.0)
    if name == "det":
        goals.append(Goal("det, IoU of maps:", 0.95, mine.quality))
    elif name == "rec":
        goals.append(Goal("rec, CER above full precision's:", 0.002, -lost, "at most"))
        goals.append(Goal("rec, lines with the same text:", 0.75, mine.same))
    else:
        goals.append(Goal(f"{name}, accuracy lost:", 0.005, lost, "at most"))
    return goals


def _ocr(name: str, quick: bool) -> TimedModel:
    draw, step = DRAWN[name], 8 if quick else 1
    given = [draw(FIRST + number) for number in range(CALIBRATION[name] // (4 if quick else 1))]
    judged = [draw(number) for number in range(0, JUDGED[name], step)]
    chosen = subject_of(name, given, judged)
    feeds = {"x": judged[0].pixels[None]}
    return TimedModel(chosen, feeds, _judge(chosen, name, judged))


def _judge(
    chosen: Subject, name: str, judged: Sequence[RenderedImage]
) -> Callable[[Answers, Answers], tuple[float, float | None]]:
    labels = [item.label for item in judged]
    if name == "det":
        return lambda answers, exact: (_overlap(answers, exact), None)
    if name == "cls":
        return lambda answers, _: (_accuracy(answers, labels), None)
    options = Options(charset=text_images.charset(chosen.model))

    def read(answers: Answers, exact: Answers) -> tuple[float, float]:
        texts, before = (
            [read_text({"scores": scores}, options) for scores in side] for side in (answers, exact)
        )
        errors = [error_rate(label, text) for label, text in zip(labels, texts, strict=True)]
        return float(np.mean(errors)), float(
            np.mean([a == b for a, b in zip(texts, before, strict=True)])
        )

    return read


def _overlap(answers: Answers, exact: Answers) -> float:
    overlaps = []
    for one, other in zip(answers, exact, strict=True):
        found, wanted = one > MAP_THRESHOLD, other > MAP_THRESHOLD
        overlaps.append((found & wanted).sum() / max((found | wanted).sum(), 1))
    return float(np.mean(overlaps))


def _accuracy(answers: Answers, labels: Sequence[str]) -> float:
    return float(
        np.mean(
            [str(scores.argmax()) == label for scores, label in zip(answers, labels, strict=True)]
        )
    )


def _digits(quick: bool) -> TimedModel:
    """Return the digits at the exposure that they are calibrated on: others are drift."""
    whole = subject.digits(quick)
    chosen = replace(whole, held_out={HOME: whole.held_out[HOME]})
    labels = [str(label) for label in subject.digit_labels(quick)[HOME]]
    first = next(chosen.inputs.batches(chosen.held_out[HOME]))
    feeds = next(first.parts(1)).feeds
    return TimedModel(chosen, feeds, lambda answers, _: (_accuracy(answers, labels), None))


def _static(method: str, kind: QuantType) -> Callable[[Subject], bytes]:
    """Return a call of `quantize_static` per channel, after its own preparation of the graph."""
    options: Mapping[str, Any] = {
        "activation_type": kind,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "calibrate_method": CalibrationMethod[method],
        "extra_options": {"CalibStridedMinMax": 1} if method == "Percentile" else {},
    }

    def make(chosen: Subject) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, prepared, target = (
                Path(folder) / f"{step}.onnx" for step in ("source", "prepared", "quantized")
            )
            source.write_bytes(chosen.source)
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            ort_quantize_static(str(prepared), str(target), Reader(chosen.singles()), **options)
            return target.read_bytes()

    return make
