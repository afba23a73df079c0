"""One cell of the map: a champion meets a shift; it is kept, recalibrated, or replaced by the first rung that holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from zlib import crc32

import numpy as np
import onnx
from numpy.random import Generator
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks import ours
from benchmarks.evidence.kinds import Kind, Scores, losses, quality
from benchmarks.evidence.shifts import Case, Shift, draw
from benchmarks.ours import Candidate
from benchmarks.subject import Subject
from infra.canonical import sha256
from infra.engines import open_target
from infra.engines.port import Arrays, Engine
from tasks.observation.observer import SiteObservation
from tasks.quantization.recipes import RECIPES, Recipe
from tasks.records import GoldenCase, Payload

SCHEMES = ("int8-max", "int8-smooth", "fp8", "int8-dynamic", "int4-block-32")
"""Static per-tensor activations with and without smoothing, floating-point ones, ranges at run time, weights only."""
RUNGS = ("int8-smooth", "int8-gptq", "int8-mixed-2", "int8-mixed-4")
KEPT, LAST = "keep", "full-precision"
RANK = 4


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """What happened in one seed; losses are of the same held-out cases, [cases]."""

    kind: str
    shift: str
    scheme: str
    home: Scores  # the champion where it was calibrated
    stale: Scores
    recalibrated: Scores | None  # None: the scheme fixes no activation range
    rung: str
    chosen: Scores
    quality_home: Scores  # full precision's, on home and on shifted golden cases
    quality: Scores


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One kind of model, one seed: its champions, and what they were calibrated on."""

    kind: Kind
    seed: int
    count: int
    observed: Mapping[str, SiteObservation] = field(repr=False)
    champions: Mapping[str, Candidate] = field(repr=False)
    home: Mapping[str, Scores]  # what each champion loses where it was calibrated
    quality: Scores  # full precision's there


def open_scene(kind: Kind, schemes: Sequence[str], count: int, seed: int) -> Scene:
    """Observe `count` home requests and derive a champion by every scheme."""
    rng = _random(kind, kind.home, seed)
    calibration = [payloads[0] for _, payloads in draw(kind.traffic, kind.home, count, rng)]
    observed = _observe(kind.subject, calibration)
    champions = {name: ours.derived(kind.subject, RECIPES[name], observed) for name in schemes}
    cases = [(case, payloads[0]) for case, payloads in draw(kind.golden, kind.home, count, rng)]
    reference, judged = Remembered(kind.subject.reference), [payload for _, payload in cases]
    home = {name: losses(kind, reference, load(one), judged) for name, one in champions.items()}
    return Scene(kind, seed, count, observed, champions, home, quality(kind, reference, cases))


def meet(scene: Scene, shift: Shift) -> list[Cell]:
    """Every champion of the scene under one shift."""
    kind, rng = scene.kind, _random(scene.kind, shift, scene.seed)
    subject = _updated(kind.subject, shift.weights, rng) if shift.weights else kind.subject
    traffic = draw(kind.traffic, shift, scene.count, rng)
    golden = draw(kind.golden, shift, scene.count, rng)
    reference = Remembered(subject.reference)
    return [_cell(scene, shift, subject, reference, name, traffic, golden) for name in scene.champions]


def _cell(
    scene: Scene,
    shift: Shift,
    subject: Subject,
    reference: Engine,
    scheme: str,
    traffic: Sequence[tuple[Case, list[Payload]]],
    golden: Sequence[tuple[GoldenCase, list[Payload]]],
) -> Cell:
    kind, champion = replace(scene.kind, subject=subject), scene.champions[scheme]
    recipe = RECIPES[scheme]
    stale = champion if subject is scene.kind.subject else ours.derived(subject, recipe, scene.observed)
    engine = load(stale)
    worst = partial(_worst, kind, reference, engine)
    calibration, judged = worst([each for _, each in traffic]), worst([each for _, each in golden])
    score = partial(losses, kind, reference, payloads=judged)
    observed = _observe(subject, calibration)
    again = _recalibrated(subject, recipe, observed, stale)
    rung, chosen = _climb(kind, reference, observed, calibration, stale, again)
    return Cell(
        kind.name,
        shift.name,
        scheme,
        scene.home[scheme],
        score(engine=engine),
        None if again is None else score(engine=load(again)),
        rung,
        np.zeros(len(judged)) if chosen is None else score(engine=load(chosen)),
        scene.quality,
        quality(kind, reference, [(case, payload) for (case, _), payload in zip(golden, judged, strict=True)]),
    )


class Remembered:
    """An engine that answers what it was asked before from memory: full precision meets every champion's cases."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, dict[str, NDArray[np.float32]]] = {}

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name."""
        key = sha256(b"".join(name.encode() + np.ascontiguousarray(value).tobytes() for name, value in feeds.items()))
        if key not in self._known:
            self._known[key] = self._engine.run(feeds)
        return self._known[key]


def load(candidate: Candidate) -> Engine:
    """On ONNX Runtime."""
    return open_target("onnxruntime-cpu").load(candidate.lowered("u8"))


def _recalibrated(
    subject: Subject, recipe: Recipe, observed: Mapping[str, SiteObservation], stale: Candidate
) -> Candidate | None:
    """The same graph with new activation scales; None where the scheme fixes none."""
    if recipe.activations is None or recipe.activations.dynamic:
        return None
    return ours.derived(subject, RECIPES["recalibrate"], observed, stale)


def _climb(
    kind: Kind,
    reference: Engine,
    observed: Mapping[str, SiteObservation],
    calibration: Sequence[Payload],
    stale: Candidate,
    again: Candidate | None,
) -> tuple[str, Candidate | None]:
    """The first rung whose mean loss on the traffic it was made from keeps the budget, as the ladder would find it."""
    rungs = {KEPT: stale} | ({"recalibrate": again} if again is not None else {})
    for name in (*rungs, *RUNGS):
        candidate = rungs.get(name) or ours.derived(kind.subject, RECIPES[name], observed)
        if losses(kind, reference, load(candidate), calibration).mean() <= kind.budget:
            return name, candidate
    return LAST, None


def _worst(kind: Kind, reference: Engine, engine: Engine, variants: Sequence[Sequence[Payload]]) -> list[Payload]:
    """Of each case's variants the one that the champion loses most on."""
    if all(len(each) == 1 for each in variants):
        return [each[0] for each in variants]
    rows = [losses(kind, reference, engine, [each[index] for each in variants]) for index in range(len(variants[0]))]
    return [each[index] for each, index in zip(variants, np.argmax(rows, axis=0).tolist(), strict=True)]


def _observe(subject: Subject, payloads: Sequence[Payload]) -> Mapping[str, SiteObservation]:
    return ours.observe(replace(subject, calibration=tuple(payloads)))


def _updated(subject: Subject, norm: float, rng: Generator) -> Subject:
    """The subject after a merged adapter: W + norm |W| U V / |U V| for every weight matrix, U V of rank 4."""
    graph = onnx.ModelProto()
    graph.CopyFrom(subject.model)
    weights = {item.name: item for item in graph.graph.initializer}
    for name in sorted({layer.weight for site in subject.sites for layer in site.layers}):
        value = numpy_helper.to_array(weights[name])
        flat = value.reshape(value.shape[0], -1)
        rank = min(RANK, *flat.shape)
        delta = rng.standard_normal((flat.shape[0], rank)) @ rng.standard_normal((rank, flat.shape[1]))
        delta *= norm * np.linalg.norm(flat) / np.linalg.norm(delta)
        new = np.asarray(flat + delta, np.float32).reshape(value.shape)
        weights[name].CopyFrom(numpy_helper.from_array(new, name))
    return replace(subject, model=graph)


def _random(kind: Kind, shift: Shift, seed: int) -> Generator:
    return np.random.default_rng([seed, crc32(kind.name.encode()), crc32(shift.name.encode())])
