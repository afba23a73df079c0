"""A kind of model on the map: what it was calibrated on, and the shifts that may befall it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.evidence.shifts import Shift
from benchmarks.harness.subject import EXAMPLES, Subject
from infra.canonical import sha256
from infra.engines import open_target
from infra.engines.port import Engine
from tasks.drift.measure import answers
from tasks.graphs.sites import Site, expose
from tasks.models.custom.charsets import read_charsets
from tasks.models.custom.layout import read_record_layout
from tasks.models.inputs import Inputs, open_inputs, run_all
from tasks.models.vision.classes import Classes, prototypes
from tasks.records import GoldenCase, GoldenSet, Payload, Request
from tasks.specs.spec import ModelSpec
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
    def charsets(self) -> Mapping[str, Sequence[str]]:
        """Return the characters of metrics that read text, by metric."""
        subject = self.kind.subject
        data = read_charsets(self.spec.metrics, subject.model, EXAMPLES / subject.name)
        return {name: tuple(letters) for name, letters in json.loads(data)["charsets"].items()}

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


def open_inputs_of(
    spec: ModelSpec, weights: Path, graph: onnx.ModelProto, shipped: Sequence[Payload] = ()
) -> Inputs:
    """Return how payloads become feeds of this graph.

    What a custom task reads follows from what is shipped with it as well.
    """
    tokenizer = (weights / spec.input.tokenizer).read_bytes() if spec.input.tokenizer else None
    engine: list[Engine] = []

    def reference() -> Engine:
        if not engine:
            engine.append(open_target("onnxruntime-cpu").load(graph.SerializeToString()))
        return engine[0]

    layout = None
    if spec.task is Task.CUSTOM:
        layout = read_record_layout(graph, spec.input, shipped, tokenizer)
    return open_inputs(spec, tokenizer, graph, reference, layout)


def with_graph(subject: Subject, graph: onnx.ModelProto) -> Subject:
    """Return the subject with other weights.

    A recognizer's transcripts are then its new ones.
    """
    if subject.spec.task is Task.CUSTOM:  # its layout follows from the graph's shape alone
        return replace(subject, model=graph)
    return replace(subject, model=graph, inputs=open_inputs_of(subject.spec, subject.folder, graph))
