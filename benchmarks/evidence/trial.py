"""One cell of the map: a champion meets a shift.

It is kept, recalibrated, or replaced by the first candidate that holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from zlib import crc32

import numpy as np
import onnx
from numpy.random import Generator
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.evidence.kinds.model_kind import KindModel, ModelKind, Scores, losses, with_graph
from benchmarks.evidence.looking import LiveWindow, TrialChampion, look_at
from benchmarks.evidence.quality import quality
from benchmarks.evidence.scene import CellChoice, SeededModel, load
from benchmarks.evidence.shifts import Shift, draw
from benchmarks.harness import ours
from benchmarks.harness.ours import Candidate
from benchmarks.harness.subject import Subject
from infra.canonical import sha256
from infra.engines.port import Arrays, Engine
from infra.identifiers import Digest
from tasks.drift.decision import recalibrates
from tasks.drift.look import Deployed
from tasks.graphs.weights import constant_values
from tasks.observation.observer import SiteObservation
from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import Static
from tasks.records import Decision, GoldenCase, Payload, Request

SCHEMES = ("int8-max", "int8-smooth", "fp8", "int8-dynamic", "int4-block-32")
"""Ways to quantize activations.

They are static and per tensor with and without smoothing, floating-point, with ranges at run time,
or not quantized: weights only.
"""
LADDER = ("int8-smooth", "int8-gptq", "int8-mixed-2", "int8-mixed-4")
KEPT, AGAIN, LAST = "keep", "recalibrate", "full-precision"
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
    candidate: str
    chosen: Scores
    quality_home: Scores  # full precision's, on home and on shifted golden cases
    quality: Scores
    choice: CellChoice  # what the loop does, and what else it could have done


def open_scene(kind: ModelKind, schemes: Sequence[str], count: int, seed: int) -> SeededModel:
    """Observe `count` home requests and derive a champion by every scheme."""
    rng = _random(kind, kind.home, seed)
    calibration = [
        replace(request, payload=payloads[0])
        for request, payloads in draw(kind.traffic, kind.home, count, rng)
    ]
    observed = _observe(kind.subject, [request.payload for request in calibration])
    champions = {name: ours.derived(kind.subject, RECIPES[name], observed) for name in schemes}
    cases = [(case, payloads[0]) for case, payloads in draw(kind.golden, kind.home, count, rng)]
    reference, judged = Remembered(kind.subject.reference), [payload for _, payload in cases]
    home = {
        name: losses(kind, reference, load(champion), judged)
        for name, champion in champions.items()
    }
    return SeededModel(
        kind, seed, count, calibration, observed, champions, home, quality(kind, reference, cases)
    )


def meet(scene: SeededModel, shift: Shift) -> list[Cell]:
    """Put every champion of the scene under one shift."""
    kind, rng = scene.kind, _random(scene.kind, shift, scene.seed)
    subject = _updated(kind.subject, shift.weights, rng) if shift.weights else kind.subject
    traffic = draw(kind.traffic, shift, scene.count, rng)
    golden = draw(kind.golden, shift, scene.count, rng)
    reference = Remembered(subject.reference)
    shifted = replace(kind, subject=subject)
    shared = _repairs(shifted, reference, traffic, golden, None) if shift.variants == 1 else None
    return [
        _cell(scene, shift, shifted, reference, name, shared, traffic, golden)
        for name in scene.champions
    ]


@dataclass(frozen=True, slots=True, eq=False)
class CandidateLosses:
    """Losses of one candidate."""

    window: Scores
    judged: Scores


@dataclass(frozen=True, slots=True, eq=False)
class Repairs:
    """What each candidate of the ladder does with a window of shifted traffic.

    It is judged on held-out cases like the window.
    """

    kind: ModelKind  # after a weight update
    reference: Engine
    window: Sequence[Request]
    judged: Sequence[tuple[GoldenCase, Payload]]
    observed: Mapping[str, SiteObservation]
    candidates: dict[str, CandidateLosses] = field(default_factory=dict)

    @property
    def payloads(self) -> list[Payload]:
        """Return the payloads of the window."""
        return [request.payload for request in self.window]

    def outcome(self, candidate: Candidate) -> CandidateLosses:
        """Return what a candidate loses on the window and on the held-out cases."""
        score, engine = partial(losses, self.kind, self.reference), load(candidate)
        return CandidateLosses(
            score(engine, self.payloads), score(engine, [payload for _, payload in self.judged])
        )

    def candidate(self, name: str) -> CandidateLosses:
        """Return the same of a candidate that is derived from the window alone.

        Each is built once.
        """
        if name not in self.candidates:
            self.candidates[name] = self.outcome(
                ours.derived(self.kind.subject, RECIPES[name], self.observed)
            )
        return self.candidates[name]


def _repairs(
    kind: ModelKind,
    reference: Engine,
    traffic: Sequence[tuple[Request, list[Payload]]],
    golden: Sequence[tuple[GoldenCase, list[Payload]]],
    champion: Engine | None,
) -> Repairs:
    """Take of each case's variants what the champion loses most on."""
    calibration, judged = (
        _worst(kind, reference, champion, [each for _, each in part]) for part in (traffic, golden)
    )
    window = [
        replace(request, payload=payload)
        for (request, _), payload in zip(traffic, calibration, strict=True)
    ]
    cases = [(case, payload) for (case, _), payload in zip(golden, judged, strict=True)]
    return Repairs(kind, reference, window, cases, _observe(kind.subject, calibration))


def _cell(
    scene: SeededModel,
    shift: Shift,
    kind: ModelKind,
    reference: Engine,
    scheme: str,
    shared: Repairs | None,
    traffic: Sequence[tuple[Request, list[Payload]]],
    golden: Sequence[tuple[GoldenCase, list[Payload]]],
) -> Cell:
    champion, recipe = scene.champions[scheme], RECIPES[scheme]
    served = load(champion)
    repairs = shared or _repairs(kind, reference, traffic, golden, served)
    of_champion = repairs.outcome(champion)
    changed = kind.subject is not scene.kind.subject
    stale = ours.derived(kind.subject, recipe, scene.observed) if changed else champion
    tried = {KEPT: repairs.outcome(stale) if changed else of_champion}
    again = _recalibrated(kind.subject, recipe, repairs.observed, stale)
    if again is not None:
        tried[AGAIN] = repairs.outcome(again)
    decision = _decision(scene, repairs, champion, served)
    candidate = _climb(repairs, tried)
    ladder = {name: outcome for name, outcome in tried.items() if name != KEPT}
    loop_choice = _climb(repairs, ladder) if recalibrates(decision) else KEPT
    mean_losses = {
        name: float(outcome.judged.mean())
        for name, outcome in (ladder | repairs.candidates).items()
    }
    return Cell(
        kind.name,
        shift.name,
        scheme,
        scene.home[scheme],
        tried[KEPT].judged,
        tried[AGAIN].judged if again is not None else None,
        candidate,
        np.zeros(len(repairs.judged))
        if candidate == LAST
        else (tried | repairs.candidates)[candidate].judged,
        scene.quality,
        quality(kind, reference, repairs.judged),
        CellChoice(
            kind.budget,
            decision.action,
            loop_choice,
            {KEPT: float(of_champion.judged.mean()), LAST: 0.0} | mean_losses,
            changed,
        ),
    )


def _decision(
    scene: SeededModel, repairs: Repairs, champion: Candidate, served: Engine
) -> Decision:
    """Return what the shipped loop decides about the window."""
    model, derived = KindModel(repairs.kind, repairs.reference), champion.derived
    sensitivity = {
        ranked.site: ranked.loss for ranked in derived.ranking if ranked.loss is not None
    }
    deployed = Deployed(derived.scales, derived.reference, sensitivity)
    home = sha256(scene.kind.subject.source)
    window = LiveWindow(Digest(""), repairs.window, lambda: _golden_scores(repairs))
    return look_at(model, TrialChampion("1", home, served, deployed, scene.calibration), window)[0]


def _golden_scores(repairs: Repairs) -> Scores:
    """Score full precision on the held-out cases.

    A language model's exact answers take too long to generate here: its control stays inconclusive.
    """
    rule = repairs.kind.subject.spec.control
    if rule is None or rule.metric == "exact-match":
        return np.zeros(0)
    return quality(repairs.kind, repairs.reference, repairs.judged)


def _climb(repairs: Repairs, tried: Mapping[str, CandidateLosses]) -> str:
    """Return the first whose mean loss on its own traffic keeps the budget, as the ladder does.

    What was tried already comes first. A candidate is built only when all before it have failed.
    """
    able = [
        name
        for name in LADDER
        if RECIPES[name].high_precision_sites < len(repairs.kind.subject.sites)
    ]
    for name in (*tried, *able):
        outcome = tried[name] if name in tried else repairs.candidate(name)
        if outcome.window.mean() <= repairs.kind.budget:
            return name
    return LAST


class Remembered:
    """An engine that answers from memory what it was asked before.

    Full precision meets every champion's cases.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, dict[str, NDArray[np.float32]]] = {}

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Return outputs by name."""
        key = sha256(
            b"".join(
                name.encode() + np.ascontiguousarray(value).tobytes()
                for name, value in feeds.items()
            )
        )
        if key not in self._known:
            self._known[key] = self._engine.run(feeds)
        return self._known[key]


def _recalibrated(
    subject: Subject, recipe: Recipe, observed: Mapping[str, SiteObservation], stale: Candidate
) -> Candidate | None:
    """Return the same graph with new activation scales; None where the scheme fixes none."""
    if not isinstance(recipe.activation, Static):
        return None
    return ours.derived(subject, RECIPES["recalibrate"], observed, stale)


def _worst(
    kind: ModelKind, reference: Engine, engine: Engine | None, variants: Sequence[Sequence[Payload]]
) -> list[Payload]:
    """Return of each case's variants the one that the champion loses most on."""
    if engine is None:
        return [each[0] for each in variants]
    rows = [
        losses(kind, reference, engine, [each[index] for each in variants])
        for index in range(len(variants[0]))
    ]
    return [
        each[index] for each, index in zip(variants, np.argmax(rows, axis=0).tolist(), strict=True)
    ]


def _observe(subject: Subject, payloads: Sequence[Payload]) -> Mapping[str, SiteObservation]:
    return ours.observe(replace(subject, calibration=tuple(payloads)))


def _updated(subject: Subject, norm: float, rng: Generator) -> Subject:
    """Return the subject after a merged adapter.

    Every weight matrix W becomes W + norm |W| U V / |U V|, with U V of rank 4.
    """
    graph = onnx.ModelProto()
    graph.CopyFrom(subject.model)
    weights = {item.name: item for item in graph.graph.initializer}
    for name in sorted({layer.weight for site in subject.sites for layer in site.layers}):
        value = constant_values(weights[name])
        flat = value.reshape(value.shape[0], -1)
        rank = min(RANK, *flat.shape)
        delta = rng.standard_normal((flat.shape[0], rank)) @ rng.standard_normal(
            (rank, flat.shape[1])
        )
        delta *= norm * np.linalg.norm(flat) / np.linalg.norm(delta)
        new = np.asarray(flat + delta, np.float32).reshape(value.shape)
        weights[name].CopyFrom(numpy_helper.from_array(new, name))
    return with_graph(subject, graph)


def _random(kind: ModelKind, shift: Shift, seed: int) -> Generator:
    return np.random.default_rng([seed, crc32(kind.name.encode()), crc32(shift.name.encode())])
