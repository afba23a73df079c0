"""The kinds of model on the map.

Each has what it was calibrated on, and the shifts that its traffic can take.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.evidence import shifts
from benchmarks.evidence.shifts import Grouped, Select, Shift, TrafficPart
from benchmarks.harness.subject import EXAMPLES, Subject
from infra.canonical import sha256
from infra.engines import open_target
from infra.engines.port import Engine
from infra.sources import fetch
from tasks.drift.measure import answers
from tasks.graphs.sites import Site, expose
from tasks.models.corpus import read_corpus
from tasks.models.export import export
from tasks.models.golden import read_golden
from tasks.models.inputs import Inputs, open_inputs, run_all
from tasks.models.vision.classes import Classes, prototypes
from tasks.records import CaseKind, GoldenCase, GoldenSet, Payload, Request
from tasks.specs.spec import ModelSpec, load_spec
from tasks.specs.traits import Task

Scores = NDArray[np.float64]
ADAPTER = 0.08
"""Relative norm of the weight update.

What a low-rank fine-tuning leaves behind is of this order.
"""


@dataclass(frozen=True, eq=False)
class ModelKind:
    """One model with its traffic, its golden cases and the changes that may befall it."""

    name: str
    subject: Subject
    traffic: tuple[Request, ...]
    golden: tuple[GoldenCase, ...]
    home: Shift  # what the champion was calibrated on
    shifts: tuple[Shift, ...]
    budget: float  # of the loss: 1 - cosine, or 1 - agreement
    quality: str  # what full precision is judged by
    golden_set: GoldenSet  # with the guardrail cases and their safety head


def losses(
    kind: ModelKind, reference: Engine, engine: Engine, payloads: Sequence[Payload]
) -> Scores:
    """Return each payload's loss, [payloads].

    It is 1 - cosine, or the fraction of answers or tokens that differ from full precision's.
    """
    subject = kind.subject
    return 1 - answers(subject.spec, reference, engine, subject.inputs, payloads).scores


@dataclass(frozen=True, eq=False)
class KindModel:
    """A kind's full precision, as detectors run it."""

    kind: ModelKind
    reference: Engine

    @property
    def spec(self) -> ModelSpec:
        """Return the subject's spec."""
        return self.kind.subject.spec

    @property
    def inputs(self) -> Inputs:
        """Return the subject's inputs: a recognizer's follow from its weights."""
        return self.kind.subject.inputs

    @property
    def sites(self) -> tuple[Site, ...]:
        """Return where the graph can be quantized."""
        return self.kind.subject.sites

    @property
    def golden(self) -> GoldenSet:
        """Return every golden case, and the safety head where the kind has one."""
        return self.kind.golden_set

    @cached_property
    def source(self) -> str:
        """Return the digest of the full-precision graph."""
        return sha256(self.kind.subject.source)

    @cached_property
    def instrumented(self) -> Engine:
        """Return the full-precision graph that also outputs every site's activations."""
        subject = self.kind.subject
        exposed = expose(subject.model, subject.sites)
        return open_target("onnxruntime-cpu").load(exposed.SerializeToString())

    @cached_property
    def classes(self) -> Classes | None:
        """Return the means of the labelled traffic's own images, before any shift.

        None for other kinds.
        """
        if self.spec.task is not Task.IMAGE_EMBEDDING:
            return None
        labelled = [
            (request.payload, request.label)
            for request in self.kind.traffic
            if request.label is not None
        ]
        outputs = run_all(self.reference, self.inputs, [payload for payload, _ in labelled])
        return prototypes(outputs, [label for _, label in labelled])


def _in(domains: Sequence[str] = (), languages: Sequence[str] = ()) -> Select:
    def select(case: Grouped) -> bool:
        return (not domains or case.domain in domains) and (
            not languages or case.language in languages
        )

    return select


def text_encoder() -> ModelKind:
    """Return MiniLM, calibrated on English documentation."""
    prose, code = _in(("docs", "docstrings", "interface"), ("en",)), _in(("code",), ("en",))
    return _text(
        "text encoder",
        "minilm",
        prose,
        code,
        _in(("interface",), ("ja", "ru")),
        0.008,
        "recall at 5",
    )


def language_model() -> ModelKind:
    """Return the small decoder, calibrated on English prose."""
    prose = _in(("docs", "docstrings", "interface", "dialogue", "summary"), ("en",))
    foreign = _in((), ("ja", "ru", "zh", "ko"))
    return _text(
        "language model",
        "lm",
        prose,
        _in(("code", "coding"), ("en",)),
        foreign,
        0.15,
        "-nats a token",
    )


def _text(
    name: str,
    folder: str,
    prose: Select,
    code: Select,
    foreign: Select,
    budget: float,
    quality: str,
) -> ModelKind:
    changes = (
        Shift("language", "other languages only", (TrafficPart(foreign),)),
        Shift("domain", "source code only", (TrafficPart(code),)),
        Shift("jargon", "three words in ten are new terms", (TrafficPart(prose, shifts.jargon),)),
        Shift("length", "texts four times as long", (TrafficPart(prose, shifts.lengthened),)),
        Shift("noise", "one letter in ten is wrong", (TrafficPart(prose, shifts.misspelt),)),
        Shift(
            "tenant mix",
            "nine requests in ten are one tenant's code",
            (TrafficPart(prose, fraction=0.1), TrafficPart(code, fraction=0.9)),
        ),
        Shift(
            "weight update",
            "a low-rank update of every matrix",
            (TrafficPart(prose),),
            weights=ADAPTER,
        ),
        Shift(
            "adversarial",
            "floods of rare symbols, the worst of four",
            (TrafficPart(prose, shifts.hostile_text),),
            variants=4,
        ),
    )
    return _open(
        name,
        folder,
        Shift("home", "English prose", (TrafficPart(prose),)),
        changes,
        budget,
        quality,
    )


def image_classifier() -> ModelKind:
    """Return the digits classifier, calibrated at exposures 0.5 and 1."""
    scans = _in(("exposure-1",))
    home = shifts.scaled(0.5, 1.0)

    changes = (
        Shift("exposure", "exposures 4 and 8", (TrafficPart(scans, shifts.scaled(4.0, 8.0)),)),
        Shift(
            "noise",
            "white noise of a tenth",
            (TrafficPart(scans, shifts.chained(home, shifts.noisy(0.1))),),
        ),
        Shift(
            "sensor offset",
            "a quarter of the largest value added",
            (TrafficPart(scans, shifts.chained(home, shifts.offset(0.25))),),
        ),
        Shift(
            "tenant mix",
            "nine images in ten from a tenant at exposure 4",
            (TrafficPart(scans, home, 0.1), TrafficPart(scans, shifts.scaled(4.0), 0.9)),
        ),
        Shift(
            "weight update",
            "a low-rank update of every matrix",
            (TrafficPart(scans, home),),
            weights=ADAPTER,
        ),
        Shift(
            "adversarial",
            "spikes, the worst of four",
            (TrafficPart(scans, shifts.chained(home, shifts.hostile_tensor)),),
            variants=4,
        ),
    )
    return _open(
        "image classifier",
        "digits",
        Shift("home", "exposures 0.5 and 1", (TrafficPart(scans, home),)),
        changes,
        0.05,
        "accuracy",
    )


def speech_recognizer() -> ModelKind:
    """Return the recognizer of spoken digits, calibrated on recordings of the studio."""
    studio = _in(("studio",))
    changes = (
        Shift(
            "gain",
            "recordings four and eight times as loud",
            (TrafficPart(studio, shifts.scaled(4.0, 8.0)),),
        ),
        Shift("noise", "white noise of a fifth", (TrafficPart(studio, shifts.noisy(0.2)),)),
        Shift(
            "sensor offset",
            "a tenth of the largest value added",
            (TrafficPart(studio, shifts.offset(0.1)),),
        ),
        Shift(
            "length",
            "up to half a second of a quiet room before the words",
            (TrafficPart(studio, shifts.late),),
        ),
        Shift(
            "tenant mix",
            "nine recordings in ten from a tenant with a weak, noisy line",
            (
                TrafficPart(studio, fraction=0.1),
                TrafficPart(studio, shifts.chained(shifts.scaled(0.05), shifts.noisy(0.1)), 0.9),
            ),
        ),
        Shift(
            "weight update",
            "a low-rank update of every matrix",
            (TrafficPart(studio),),
            weights=ADAPTER,
        ),
        Shift(
            "adversarial",
            "clicks, the worst of four",
            (TrafficPart(studio, shifts.hostile_tensor),),
            variants=4,
        ),
    )
    home = Shift("home", "studio recordings", (TrafficPart(studio),))
    return _open("speech recognizer", "speech", home, changes, 0.05, "word accuracy")


def image_encoder() -> ModelKind:
    """Return the encoder of coloured shapes, calibrated at daylight."""
    daylight = _in(("daylight",))
    changes = (
        Shift("exposure", "exposures 2 and 4", (TrafficPart(daylight, shifts.scaled(2.0, 4.0)),)),
        Shift("noise", "white noise of a fifth", (TrafficPart(daylight, shifts.noisy(0.2)),)),
        Shift(
            "sensor offset",
            "half of the largest value added",
            (TrafficPart(daylight, shifts.offset(0.5)),),
        ),
        Shift(
            "tenant mix",
            "nine images in ten from a tenant at exposure 4",
            (TrafficPart(daylight, fraction=0.1), TrafficPart(daylight, shifts.scaled(4.0), 0.9)),
        ),
        Shift(
            "weight update",
            "a low-rank update of every matrix",
            (TrafficPart(daylight),),
            weights=ADAPTER,
        ),
        Shift(
            "adversarial",
            "spikes, the worst of four",
            (TrafficPart(daylight, shifts.hostile_tensor),),
            variants=4,
        ),
    )
    return _open(
        "image encoder",
        "vision",
        Shift("home", "daylight", (TrafficPart(daylight),)),
        changes,
        0.02,
        "accuracy",
    )


def _open(
    name: str, folder: str, home: Shift, others: tuple[Shift, ...], budget: float, quality: str
) -> ModelKind:
    path = EXAMPLES / folder
    spec = load_spec(path / "model.yaml")
    weights = fetch(spec.source, base=path, cache=EXAMPLES)
    graph = export(spec, weights)
    pool = _corpus(path, "calibration")
    head = spec.golden.safety_head
    golden = read_golden(
        (path / "golden.parquet").read_bytes(),
        (path / head).read_bytes() if head else None,
        where=f"the golden set of {name}",
    )
    judged = tuple(case for case in golden.cases if case.kind is not CaseKind.SAFETY)
    rows = (*_corpus(path, "traffic"), *pool)
    # The inputs follow from the graph, and of a speech model from its full precision as well.
    closed = Subject(name, spec, weights, graph, open_inputs_of(spec, weights, graph), rows, (), {})
    return ModelKind(name, closed, rows, judged, home, others, budget, quality, golden)


def open_inputs_of(spec: ModelSpec, weights: Path, graph: onnx.ModelProto) -> Inputs:
    """Return how payloads become feeds of this graph."""
    tokenizer = (weights / spec.input.tokenizer).read_bytes() if spec.input.tokenizer else None
    engine: list[Engine] = []

    def reference() -> Engine:
        if not engine:
            engine.append(open_target("onnxruntime-cpu").load(graph.SerializeToString()))
        return engine[0]

    return open_inputs(spec, tokenizer, graph, reference)


def with_graph(subject: Subject, graph: onnx.ModelProto) -> Subject:
    """Return the subject with other weights.

    A recognizer's transcripts are then its new ones.
    """
    return replace(subject, model=graph, inputs=open_inputs_of(subject.spec, subject.folder, graph))


def _corpus(path: Path, part: str) -> tuple[Request, ...]:
    return read_corpus((path / f"{part}.parquet").read_bytes(), where=f"{part} of {path.name}")


KINDS = {
    "image": image_classifier,
    "vision": image_encoder,
    "speech": speech_recognizer,
    "text": text_encoder,
    "language": language_model,
}
"""Every kind by its word on the command line, the cheapest first."""
