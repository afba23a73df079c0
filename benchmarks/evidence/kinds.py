"""The kinds of model on the map: what each was calibrated on, and the shifts that its traffic can take."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence import shifts
from benchmarks.evidence.shifts import Grouped, Part, Select, Shift
from benchmarks.subject import EXAMPLES, Subject
from infra.engines.port import Engine
from infra.sources import fetch
from tasks.models.corpus import read_corpus
from tasks.models.export import export
from tasks.models.golden import read_golden, relevant_rows
from tasks.models.inputs import language_inputs, open_inputs, run_all
from tasks.models.language.comparison import compare
from tasks.models.scoring import accuracy, fidelity, recall_at_k
from tasks.models.spec import Task, load_spec
from tasks.records import CaseKind, GoldenCase, Payload, Request

Scores = NDArray[np.float64]
ADAPTER = 0.08
"""Relative norm of the weight update: what a low-rank fine-tuning leaves behind is of this order."""


@dataclass(frozen=True, eq=False)
class Kind:
    """One model with its traffic, its golden cases and the changes that may befall it."""

    name: str
    subject: Subject
    traffic: tuple[Request, ...]
    golden: tuple[GoldenCase, ...]
    home: Shift  # what the champion was calibrated on
    shifts: tuple[Shift, ...]
    budget: float  # of the loss: 1 - cosine, or 1 - agreement
    quality: str  # what full precision is judged by

    @cached_property
    def metric(self) -> str:
        """What the loss is one minus of."""
        return "cosine" if self.subject.spec.task is Task.TEXT_EMBEDDING else "agreement"


def losses(kind: Kind, reference: Engine, engine: Engine, payloads: Sequence[Payload]) -> Scores:
    """1 - cosine, or the share of answers or tokens that differ from full precision's, [payloads]."""
    subject = kind.subject
    if subject.spec.task is Task.CAUSAL_LM:
        return 1 - compare(reference, engine, language_inputs(subject.inputs), payloads).agreement
    expected, found = (run_all(one, subject.inputs, payloads) for one in (reference, engine))
    return 1 - fidelity(subject.spec.task, expected, found)


def quality(kind: Kind, engine: Engine, cases: Sequence[tuple[GoldenCase, Payload]]) -> Scores:
    """Full precision's own answers against the labels, a case each; empty where these cases have none.

    Recall at 5 of queries among the passages at hand; accuracy; minus nats a token of a language model.
    """
    subject, payloads = kind.subject, [payload for _, payload in cases]
    if subject.spec.task is Task.CAUSAL_LM:
        return -compare(engine, engine, language_inputs(subject.inputs), payloads).reference_loss
    outputs = run_all(engine, subject.inputs, payloads)
    if subject.spec.task is Task.IMAGE_CLASSIFICATION:
        return accuracy(outputs, np.asarray([int(case.label or -1) for case, _ in cases]))
    golden = [case for case, _ in cases]
    known = {case.case_id for case in golden if case.kind is CaseKind.PASSAGE}
    passages = np.flatnonzero([case.kind is CaseKind.PASSAGE for case in golden])
    queries = np.flatnonzero([case.kind is CaseKind.QUERY and bool(set(case.relevant) & known) for case in golden])
    if not queries.size:
        return np.zeros(0)
    return recall_at_k(outputs[queries], outputs[passages], relevant_rows(golden, queries, passages))


def _in(domains: Sequence[str] = (), languages: Sequence[str] = ()) -> Select:
    def select(case: Grouped) -> bool:
        return (not domains or case.domain in domains) and (not languages or case.language in languages)

    return select


def text_encoder() -> Kind:
    """MiniLM, calibrated on English documentation."""
    prose, code = _in(("docs", "docstrings", "interface"), ("en",)), _in(("code",), ("en",))
    return _text("text encoder", "minilm", prose, code, _in(("interface",), ("ja", "ru")), 0.008, "recall at 5")


def language_model() -> Kind:
    """The small decoder, calibrated on English prose."""
    prose = _in(("docs", "docstrings", "interface", "dialogue", "summary"), ("en",))
    foreign = _in((), ("ja", "ru", "zh", "ko"))
    return _text("language model", "lm", prose, _in(("code", "coding"), ("en",)), foreign, 0.15, "-nats a token")


def _text(name: str, folder: str, prose: Select, code: Select, foreign: Select, budget: float, quality: str) -> Kind:
    found = (
        Shift("language", "other languages only", (Part(foreign),)),
        Shift("domain", "source code only", (Part(code),)),
        Shift("jargon", "three words in ten are new terms", (Part(prose, shifts.jargon),)),
        Shift("length", "texts four times as long", (Part(prose, shifts.lengthened),)),
        Shift("noise", "one letter in ten is wrong", (Part(prose, shifts.misspelt),)),
        Shift(
            "tenant mix", "nine requests in ten are one tenant's code", (Part(prose, share=0.1), Part(code, share=0.9))
        ),
        Shift("weight update", "a low-rank update of every matrix", (Part(prose),), weights=ADAPTER),
        Shift(
            "adversarial", "floods of rare symbols, the worst of four", (Part(prose, shifts.hostile_text),), variants=4
        ),
    )
    return _open(name, folder, Shift("home", "English prose", (Part(prose),)), found, budget, quality)


def image_classifier() -> Kind:
    """Digits, calibrated at exposures 0.5 and 1."""
    scans = _in(("scan", "exposure-1"))
    home = shifts.scaled(0.5, 1.0)

    def after(mutate: shifts.Mutate) -> shifts.Mutate:
        return lambda payload, rng: mutate(home(payload, rng), rng)

    found = (
        Shift("exposure", "exposures 4 and 8", (Part(scans, shifts.scaled(4.0, 8.0)),)),
        Shift("noise", "white noise of a tenth", (Part(scans, after(shifts.noisy(0.1))),)),
        Shift("sensor offset", "a quarter of the largest value added", (Part(scans, after(shifts.offset(0.25))),)),
        Shift(
            "tenant mix",
            "nine images in ten from a tenant at exposure 4",
            (Part(scans, home, 0.1), Part(scans, shifts.scaled(4.0), 0.9)),
        ),
        Shift("weight update", "a low-rank update of every matrix", (Part(scans, home),), weights=ADAPTER),
        Shift("adversarial", "spikes, the worst of four", (Part(scans, after(shifts.hostile_tensor)),), variants=4),
    )
    return _open(
        "image classifier",
        "digits",
        Shift("home", "exposures 0.5 and 1", (Part(scans, home),)),
        found,
        0.05,
        "accuracy",
    )


def _open(name: str, folder: str, home: Shift, found: tuple[Shift, ...], budget: float, quality: str) -> Kind:
    path = EXAMPLES / folder
    spec = load_spec(path / "model.yaml")
    weights = fetch(spec.source, base=path, cache=EXAMPLES)
    graph = export(spec, weights)
    tokenizer = (weights / spec.input.tokenizer).read_bytes() if spec.input.tokenizer else None
    rows = [*_corpus(path, "traffic"), *_corpus(path, "calibration")]
    golden = read_golden((path / "golden.parquet").read_bytes(), None, where=f"the golden set of {name}").cases
    judged = tuple(case for case in golden if case.kind is not CaseKind.SAFETY)
    subject = Subject(name, spec, weights, graph, open_inputs(spec, tokenizer, graph), tuple(rows), (), {})
    return Kind(name, subject, tuple(rows), judged, home, found, budget, quality)


def _corpus(path: Path, part: str) -> tuple[Request, ...]:
    return read_corpus((path / f"{part}.parquet").read_bytes(), where=f"{part} of {path.name}")


KINDS = {"text": text_encoder, "language": language_model, "image": image_classifier}
