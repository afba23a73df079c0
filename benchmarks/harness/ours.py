"""Requant's own path from texts to graphs and engines, with the time of every phase."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import onnx

from benchmarks.harness.subject import Subject
from infra.engines import open_target
from tasks.graphs.sites import expose
from tasks.observation.observer import ROWS, SiteObservation
from tasks.observation.scales import Scales
from tasks.observation.watch import watch
from tasks.quantization.derive import Derived, derive
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.recipe.catalog import Recipe, find_recipe
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
    clock, chosen = Clock(), find_recipe(recipe)
    with clock.phase("load the instrumented graph"):
        instrumented = open_target("onnxruntime-cpu").load(
            expose(subject.model, subject.sites).SerializeToString()
        )
    with clock.phase("observe"):
        observed = watch(
            instrumented, subject.sites, subject.inputs, payloads or subject.calibration
        )
    return derived(subject, chosen, observed, champion, clock)


def observe(subject: Subject, rows: int = ROWS) -> Mapping[str, SiteObservation]:
    """Observe the subject's calibration set once, for any number of recipes.

    `rows` are kept of every site.
    """
    instrumented = open_target("onnxruntime-cpu").load(
        expose(subject.model, subject.sites).SerializeToString()
    )
    return watch(instrumented, subject.sites, subject.inputs, subject.calibration, rows=rows)


def derived(
    subject: Subject,
    chosen: Recipe,
    observed: Mapping[str, SiteObservation],
    champion: Candidate | None = None,
    clock: Clock | None = None,
) -> Candidate:
    """Derive scales, weights and the graph from an observation."""
    clock = clock or Clock()
    deployed: Scales | None = champion.derived.scales if champion else None
    with clock.phase("derive"):
        derivation = derive(subject.model, subject.sites, observed, chosen, deployed)
    with clock.phase("write"):
        if champion and chosen.keeps_graph:
            graph = qdq.rescale(champion.graph, subject.sites, derivation.scales)
        else:
            graph = qdq.write(derivation.plan)
    return Candidate(graph, derivation, clock)


def build(subject: Subject, candidate: Candidate, target: str) -> bytes:
    """Lower and compile for one target; the time goes to the candidate's clock."""
    opened = open_target(target)
    with candidate.clock.phase(f"build {target}"):
        return opened.build(candidate.lowered(opened.form), subject.inputs.profile).plan
