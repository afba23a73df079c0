"""The models, calibration texts and held-out cases that every contender gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.engines import open_target
from infra.engines.port import Arrays, Engine
from infra.sources import fetch
from tasks.graphs.integer_regions import result_sites
from tasks.graphs.sites import Site, expose, find_sites
from tasks.models.corpus import read_corpus
from tasks.models.export import export
from tasks.models.golden import read_golden
from tasks.models.inputs import Inputs, open_inputs, run_all
from tasks.records import CaseKind, GoldenCase, Payload, Request, Tensor
from tasks.specs.spec import ModelSpec, Task, load_spec

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CALIBRATION_CASES = 128
ENGLISH, OTHERS = "English and code", "other languages"


@dataclass(frozen=True, eq=False)
class Subject:
    """One model with the data to quantize and to judge it."""

    name: str
    spec: ModelSpec
    folder: Path  # of the weights
    model: onnx.ModelProto  # full precision
    inputs: Inputs
    traffic: tuple[Request, ...]
    calibration: tuple[Payload, ...]
    held_out: Mapping[str, tuple[Payload, ...]]  # group -> cases; none is in the traffic

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Return where the graph can be quantized."""
        return find_sites(self.model)

    @cached_property
    def observed_sites(self) -> tuple[Site, ...]:
        """Return the sites, and every tensor that some target wants a quantizer of."""
        return (*self.sites, *result_sites(self.model, self.sites))

    @cached_property
    def source(self) -> bytes:
        """Return the full-precision graph."""
        graph: bytes = self.model.SerializeToString()
        return graph

    @cached_property
    def reference(self) -> Engine:
        """Return the full-precision graph on ONNX Runtime."""
        return open_target("onnxruntime-cpu").load(self.source)

    @cached_property
    def instrumented(self) -> Engine:
        """Return the full-precision graph with every site's activations, on ONNX Runtime."""
        exposed = expose(self.model, self.sites)
        return open_target("onnxruntime-cpu").load(exposed.SerializeToString())

    @cached_property
    def pool(self) -> tuple[Request, ...]:
        """Return the shipped calibration pool."""
        path = EXAMPLES / self.name / "calibration.parquet"
        return read_corpus(path.read_bytes(), where=str(path))

    @cached_property
    def expected(self) -> Mapping[str, Tensor]:
        """Return full-precision outputs of the held-out cases."""
        return {
            group: run_all(self.reference, self.inputs, cases)
            for group, cases in self.held_out.items()
        }

    def batches(self) -> list[Arrays]:
        """Return the calibration set, padded to the longest of each batch.

        Records come one by one: a page in full resolution fills the memory by itself.
        """
        if self.spec.task is Task.CUSTOM:
            return self.singles()
        return [batch.feeds for batch in self.inputs.batches(self.calibration)]

    def singles(self) -> list[Arrays]:
        """Return the calibration set, one case at a time."""
        batches = self.inputs.batches(self.calibration)
        return [single.feeds for batch in batches for single in batch.parts(1)]

    def padded(self) -> list[Arrays]:
        """Return the calibration set, every batch of one length.

        The histogram calibrators of the peers demand it.
        """
        batches = self.batches()
        if all(value.ndim != 2 for value in batches[0].values()):
            return batches
        longest = max(value.shape[1] for feeds in batches for value in feeds.values())
        return [
            {
                name: np.pad(value, ((0, 0), (0, longest - value.shape[1])))
                for name, value in feeds.items()
            }
            for feeds in batches
        ]


@lru_cache(maxsize=2)
def minilm(quick: bool, folder: Path | None = None) -> Subject:
    """Return MiniLM with 128 English calibration texts of the traffic, judged on golden cases.

    Safety probes are left out. A folder with a `model.onnx` and the tokenizer saves the export.
    """
    cases = [case for case in _golden("minilm") if case.kind is not CaseKind.SAFETY]
    english = tuple(case.payload for case in cases if case.language == "en")
    others = tuple(case.payload for case in cases if case.language != "en")
    step = 8 if quick else 1
    held_out = {ENGLISH: english[::step], OTHERS: others[::step]}
    return _open("minilm", held_out, "en", quick, folder)


@lru_cache(maxsize=2)
def digits(quick: bool, folder: Path | None = None) -> Subject:
    """Return the digits classifier; its groups are the exposures.

    A folder with a `model.onnx` saves the export.
    """
    cases = _golden("digits")
    groups = sorted({case.domain for case in cases})
    step = 8 if quick else 1
    held_out = {
        group: tuple(case.payload for case in cases if case.domain == group)[::step]
        for group in groups
    }
    return _open("digits", held_out, "none", quick, folder)


def digit_labels(quick: bool) -> Mapping[str, NDArray[np.int64]]:
    """Return the right digits of `digits(quick).held_out`, in its order."""
    cases, step = _golden("digits"), 8 if quick else 1
    groups = {case.domain for case in cases}
    return {
        group: np.asarray([int(str(case.label)) for case in cases if case.domain == group][::step])
        for group in groups
    }


def minilm_cases(languages: Sequence[str], quick: bool) -> tuple[Payload, ...]:
    """Return held-out texts in some languages."""
    cases = [
        case
        for case in _golden("minilm")
        if case.kind is not CaseKind.SAFETY and case.language in languages
    ]
    return tuple(case.payload for case in cases)[:: 8 if quick else 1]


def draw(traffic: Sequence[Request], languages: Sequence[str], count: int) -> tuple[Payload, ...]:
    """Draw the same sample on every run."""
    rows = sorted(
        (row for row in traffic if row.language in languages), key=lambda row: row.request_id
    )
    chosen = np.random.default_rng(0).choice(len(rows), min(count, len(rows)), replace=False)
    return tuple(rows[index].payload for index in chosen)


def _open(
    name: str,
    held_out: Mapping[str, tuple[Payload, ...]],
    language: str,
    quick: bool,
    folder: Path | None = None,
) -> Subject:
    path = EXAMPLES / name / "model.yaml"
    spec = load_spec(path)
    folder = folder or fetch(spec.source, base=path.parent, cache=EXAMPLES)
    tokenizer = (folder / spec.input.tokenizer).read_bytes() if spec.input.tokenizer else None
    traffic = read_corpus(
        (EXAMPLES / name / "traffic.parquet").read_bytes(), where=f"the traffic of {name}"
    )
    calibration = draw(traffic, [language], CALIBRATION_CASES // 4 if quick else CALIBRATION_CASES)
    return Subject(
        name,
        spec,
        folder,
        export(spec, folder),
        open_inputs(spec, tokenizer),
        traffic,
        calibration,
        held_out,
    )


def _golden(name: str) -> tuple[GoldenCase, ...]:
    return read_golden(
        (EXAMPLES / name / "golden.parquet").read_bytes(), None, where=f"the golden set of {name}"
    ).cases
