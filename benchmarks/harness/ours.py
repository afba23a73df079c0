"""Requant's own path from texts to graphs and engines, with the time of every phase."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import onnx

from benchmarks.harness.subject import Subject
from infra.engines import open_target
from infra.engines.port import Engine
from tasks.graphs.sites import expose
from tasks.numerics.formats import NumberFormat
from tasks.observation.observer import ROWS, SiteObservation
from tasks.observation.watch import watch
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline import candidate
from tasks.quantization.pipeline.candidate import (
    CacheEvidence,
    CalibrationEvidence,
    Champion,
)
from tasks.quantization.pipeline.derive import Derived
from tasks.quantization.pipeline.tuning import tune
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.sensitivity.integer_placement import KernelEvidence
from tasks.quantization.sensitivity.measure import Losses
from tasks.records import Payload


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds per phase, in the order in which they ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block."""
        started = perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - started

    @property
    def total(self) -> float:
        """Return the seconds of all phases."""
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One recipe's outcome."""

    graph: onnx.ModelProto  # S8 Q/DQ
    derived: Derived
    clock: Clock
    quantized_share: float = 0.0  # of the numbers that the graph stores

    def lowered(self, form: str) -> bytes:
        """Return the graph for a target: "u8" for ONNX Runtime, "s8" for TensorRT."""
        graph: bytes = lower(self.graph, form).SerializeToString()
        return graph


def quantize(
    subject: Subject,
    recipe: str,
    payloads: Sequence[Payload] | None = None,
    champion: Candidate | None = None,
) -> Candidate:
    """Observe, derive and write; a recipe that keeps the champion's graph patches its scales."""
    clock = Clock()
    with clock.phase("load the instrumented graph"):
        instrumented = _instrumented(subject)
    with clock.phase("observe"):
        observed = watch(
            instrumented, subject.observed_sites, subject.inputs, payloads or subject.calibration
        )
    return derived(subject, find_recipe(recipe), observed, champion, clock)


def observe(subject: Subject, rows: int = ROWS) -> Mapping[str, SiteObservation]:
    """Pass over the subject's calibration set once, for any number of recipes.

    `rows` are kept of every site.
    """
    instrumented = _instrumented(subject)
    sites = subject.observed_sites
    return watch(instrumented, sites, subject.inputs, subject.calibration, rows=rows)


def _instrumented(subject: Subject) -> Engine:
    exposed = expose(subject.model, subject.observed_sites)
    return open_target("onnxruntime-cpu").load(exposed.SerializeToString())


def derived(
    subject: Subject,
    recipe: Recipe,
    observed: Mapping[str, SiteObservation],
    champion: Candidate | None = None,
    clock: Clock | None = None,
    *,
    many_rows: Mapping[str, SiteObservation] | None = None,
    keys_and_values: CacheEvidence | None = None,
    losses: Losses | None = None,
) -> Candidate:
    """Make a candidate from an observation on, as the product's step does."""
    clock = clock or Clock()
    evidence = CalibrationEvidence(
        subject.model,
        subject.sites,
        observed,
        losses=losses,
        many_rows=many_rows if recipe.learns_from_many else None,
        keys_and_values=keys_and_values if recipe.kv_cache is NumberFormat.INT8 else None,
        kernels=_kernels(subject),
    )
    deployed = _deployed(champion) if champion else None
    with clock.phase("tune"):
        scales = deployed.scales if deployed else None
        args = (subject.model, subject.sites, observed, recipe, scales)
        tuned = tune(*args) if recipe.quantized else None
    with clock.phase("derive and write"):
        made = candidate.quantize(evidence, recipe, deployed, tuned)
    return Candidate(made.graph, made.derived, clock, made.quantized_share)


def _kernels(subject: Subject) -> KernelEvidence:
    budgets = subject.spec.budgets
    return KernelEvidence(
        subject.inputs,
        subject.spec.task,
        subject.calibration,
        budgets.int8_fraction,
        budgets.latency_ratio,
    )


def _deployed(champion: Candidate) -> Champion:
    derived = champion.derived
    return Champion(derived.scales, champion.graph, results=derived.results)


def build(subject: Subject, candidate: Candidate, target: str) -> bytes:
    """Lower and compile for one target; the time goes to the candidate's clock."""
    opened = open_target(target)
    with candidate.clock.phase(f"build {target}"):
        return opened.build(candidate.lowered(opened.form), subject.inputs.profile).plan
