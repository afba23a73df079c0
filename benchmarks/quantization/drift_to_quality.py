"""What drift costs a quantized model, and what each candidate wins back.

Everything runs on the ONNX Runtime engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness import ours, subject
from benchmarks.harness.ours import Candidate
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column
from infra.engines import open_target
from infra.engines.port import Engine
from tasks.metrics.classification import accuracy
from tasks.metrics.embeddings import cosine
from tasks.models.inputs import run_all
from tasks.records import Payload, Tensor

STALE_EXPOSURES = (0.5, 1.0)
DRIFTED = ("ja", "ru")
CANDIDATES = ("recalibrate", "recalibrate-mse", "int8-smooth", "int8-mixed-2", "int8-mixed-4")


@dataclass(frozen=True, slots=True)
class DriftQualityRow:
    """Figures of one model on one kind of traffic."""

    model: str = column("model")
    traffic: str = column("traffic")
    engine: str = column("engine")
    metric: str = column("metric")
    value: float = column("mean", ".4f")
    least: float | None = column("min", ".4f")
    count: int = column("cases", "d")


def measure(quick: bool) -> ResultTable:
    """Measure exposure drift on the digits, and language drift on MiniLM."""
    shift = exposures(subject.digits(quick), quick)
    speech = languages(subject.minilm(quick), CANDIDATES[:3] if quick else CANDIDATES, quick)
    title = "From drift to quality: stale, recalibrated and re-tuned INT8 on ONNX Runtime CPU"
    return ResultTable("drift-to-quality", title, [*shift, *speech], _goals(shift), ())


def exposures(chosen: Subject, quick: bool) -> list[DriftQualityRow]:
    """Measure the accuracy at each exposure.

    Full precision stands beside INT8 calibrated at 0.5 to 1, and the same graph recalibrated there.
    """
    labels = subject.digit_labels(quick)
    stale = ours.quantize(chosen, "int8-smooth", _exposed(chosen, STALE_EXPOSURES))
    engines: dict[str, Engine] = {
        "FP32": chosen.reference,
        "INT8, calibrated at 0.5 to 1": _engine(stale),
    }
    rows = []
    for group, images in chosen.held_out.items():
        exposure = float(group.removeprefix("exposure-"))
        fresh = ours.quantize(chosen, "recalibrate", _exposed(chosen, (exposure,)), stale)
        for name, engine in {**engines, "INT8, recalibrated": _engine(fresh)}.items():
            right = accuracy(run_all(engine, chosen.inputs, images), labels[group])
            rows.append(
                DriftQualityRow(
                    chosen.name,
                    f"exposure {exposure:g}",
                    name,
                    "accuracy",
                    right.mean(),
                    None,
                    len(images),
                )
            )
    return rows


def languages(chosen: Subject, candidates: Sequence[str], quick: bool) -> list[DriftQualityRow]:
    """Measure the cosine on Japanese and Russian.

    The champion is tuned on English, then every candidate on the new traffic.
    """
    count = len(chosen.calibration)
    traffic = subject.draw(chosen.traffic, DRIFTED, count)
    held_out = subject.minilm_cases(DRIFTED, quick)
    champion = ours.quantize(chosen, "int8-smooth")
    candidates: Mapping[str, Candidate] = {
        "champion, tuned on English": champion,
        **{
            f"{candidate}, on ja and ru": ours.quantize(chosen, candidate, traffic, champion)
            for candidate in candidates
        },
    }
    expected = run_all(chosen.reference, chosen.inputs, held_out)
    return [
        _language_row(chosen, name, item, held_out, expected) for name, item in candidates.items()
    ]


def _language_row(
    chosen: Subject, name: str, candidate: Candidate, held_out: Sequence[Payload], expected: Tensor
) -> DriftQualityRow:
    scores = cosine(expected, run_all(_engine(candidate), chosen.inputs, held_out))
    return DriftQualityRow(
        chosen.name,
        " and ".join(DRIFTED),
        name,
        "cosine",
        scores.mean(),
        scores.min(),
        len(held_out),
    )


def _exposed(chosen: Subject, factors: Sequence[float]) -> list[Payload]:
    """Return the calibration images at each exposure, as `examples.digits` defines it.

    Their pixels are multiplied.
    """
    return [
        np.asarray(image, np.float32) * np.float32(factor)
        for factor in factors
        for image in chosen.calibration
    ]


def _engine(candidate: Candidate) -> Engine:
    return open_target("onnxruntime-cpu").load(candidate.lowered("u8"))


def _goals(rows: Sequence[DriftQualityRow]) -> tuple[Goal, ...]:
    """Return the goals at the highest exposure.

    Recalibrated INT8 stays with full precision there, where the stale one does not.
    """
    last = {row.engine: row.value for row in rows if row.traffic == rows[-1].traffic}
    lost: float = last["FP32"] - last["INT8, recalibrated"]
    return (
        Goal(
            f"accuracy lost by recalibrated INT8 at {rows[-1].traffic}:",
            0.02,
            float(lost),
            "at most",
        ),
    )
