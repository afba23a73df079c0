"""A language model of real size on the map: what other text costs it, and what each answer leaves.

SmolLM2-135M-Instruct, all sites in static INT8, calibrated on English. Everything from an
observation to a graph is the product's own; graphs are judged on ONNX Runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from benchmarks.evidence.page import wrapped
from benchmarks.harness import ours
from benchmarks.harness.ours import Candidate
from benchmarks.language import smollm2
from benchmarks.language.drift import (
    HOME,
    SMOOTH,
    DriftMaterial,
    Observed,
    Sizes,
    open_material,
    renew,
    with_drifting_sites_kept,
)
from infra.engines import open_target
from infra.errors import NotFound
from infra.weights.naming import whole_size
from tasks.models.decoding.comparison import compare
from tasks.models.inputs import language_inputs
from tasks.quantization.recipe.catalog import find_recipe
from tasks.validation.latency import paired_engines

WORD = "smollm2"
KIND = "language model of real size"
SHIFTED = ("fr", "de", "ja", "ru", "code")
FULL, QUICK = Sizes(256, 32, 8), Sizes(64, 6, 2)
FEW = 2
"""Windows of each other kind in a calibration set with floors."""
DERIVED_AT_ONCE = 4
ROUNDS = 5
"""Of timing, each engine in turn."""
AT_HOME = ("int8-headroom", "fp8", "int8-dynamic", "int8-per-token")
"""Answers that are made before any shift, from the same observation."""
RENEWED = ("recalibrate", "resmooth", "resmooth-mixed-6")
"""Answers that are made after it, from an observation of the new text."""
LATE = "en, then {answer} on the new text"
_MEANING = (
    "perplexity over full precision's. At home of what is made after a shift it is the worst of "
    "all. Then weights in floating point; megabytes of the engine; latency of one text over full "
    "precision's; seconds to derive, from one observation on."
)
Derive = Callable[[], Candidate]


@dataclass(frozen=True, slots=True)
class AnswerOnText:
    """One answer, judged on one kind of text."""

    answer: str
    kind: str
    ratio: float  # of perplexities, candidate over full precision
    agreement: float
    floating: float  # fraction of the weights
    megabytes: float
    latency: float  # of one text, over full precision's
    seconds: float  # to derive, from an observation on


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One way to make a candidate, and the kinds of text to judge it on."""

    name: str
    derive: Derive
    kinds: tuple[str, ...]


def measure(quick: bool) -> list[AnswerOnText]:
    """Measure every answer on every kind of text that it is for.

    Raises:
        NotFound: The weights are not installed.
    """
    if not smollm2.is_installed() and not quick:
        raise NotFound(f"{smollm2.MISSING}: install both")
    material = open_material(QUICK if quick else FULL, real=not quick, kinds=(HOME, *SHIFTED))
    observed = {kind: _observed(material, kind) for kind in material.calibration}
    champion = ours.derived(material.subject, find_recipe(SMOOTH), observed[HOME])
    measured: list[AnswerOnText] = []
    wanted = [
        Answer("en, stale", lambda: champion, (HOME, *SHIFTED)),
        *_made_at_home(material, observed, champion),
        *_made_after(material, observed, champion),
    ]
    for answer, candidate in _derived(wanted):
        measured += _judged(material, answer, candidate)
    return measured


def _observed(material: DriftMaterial, kind: str) -> Observed:
    sys.stderr.write(f"observing {kind}\n")
    return material.observe(material.calibration[kind])


def _made_at_home(
    material: DriftMaterial, observed: Mapping[str, Observed], champion: Candidate
) -> Iterator[Answer]:
    """Yield what a first build can do against shifts that are still to come."""
    everywhere = (HOME, *SHIFTED)

    def derive(recipe: str, seen: Observed) -> Derive:
        return lambda: ours.derived(material.subject, find_recipe(recipe), seen)

    for name in AT_HOME:
        yield Answer(f"en, {name}", derive(name, observed[HOME]), everywhere)
    few = [text for kind in SHIFTED for text in material.calibration[kind][:FEW]]
    floored = [*material.calibration[HOME][: -len(few)], *few]
    seen = material.observe(floored)
    yield Answer(f"en with a floor of {FEW} windows each", derive(SMOOTH, seen), everywhere)
    yield Answer(
        "en, the 6 sites that drift most on ja in floating point",
        lambda: with_drifting_sites_kept(material, champion, observed["ja"], observed[HOME]),
        everywhere,
    )


def _made_after(
    material: DriftMaterial, observed: Mapping[str, Observed], champion: Candidate
) -> Iterator[Answer]:
    """Yield what a build on the new text does, judged there and at home."""

    def derive(name: str, kind: str) -> Derive:
        recipe = find_recipe(name) if name == "recalibrate" else renew(name)
        return lambda: ours.derived(material.subject, recipe, observed[kind], champion)

    for name in RENEWED:
        for kind in SHIFTED:
            yield Answer(LATE.format(answer=name), derive(name, kind), (kind, HOME))


def _derived(answers: Sequence[Answer]) -> Iterator[tuple[Answer, Candidate]]:
    """Derive some at once, as one leaves cores idle, and few, as each holds the graph."""
    with ThreadPoolExecutor(DERIVED_AT_ONCE) as threads:
        for start in range(0, len(answers), DERIVED_AT_ONCE):
            part = answers[start : start + DERIVED_AT_ONCE]
            yield from zip(part, threads.map(lambda item: item.derive(), part), strict=True)


def _judged(
    material: DriftMaterial, answer: Answer, candidate: Candidate
) -> Iterator[AnswerOnText]:
    plan, started = candidate.lowered("u8"), perf_counter()
    engine, inputs = (
        open_target("onnxruntime-cpu").load(plan),
        language_inputs(material.subject.inputs),
    )
    feeds = next(iter(inputs.batches(material.judged[HOME][:1]))).feeds
    latency = paired_engines(material.subject.reference, engine, feeds, rounds=ROUNDS, warmup=1)
    for kind in answer.kinds:
        both = compare(material.reference, engine, inputs, material.judged[kind])
        yield AnswerOnText(
            answer.name,
            kind,
            float(np.exp((both.candidate_loss - both.reference_loss).mean())),
            float(both.agreement.mean()),
            max(0.0, 1 - candidate.quantized_share),
            whole_size(plan) / 1e6,
            float(np.median(latency.ratios)),
            candidate.clock.total,
        )
    sys.stderr.write(f"{answer.name}: judged in {perf_counter() - started:.0f} s\n")


def as_part(measured: Sequence[AnswerOnText], command: str) -> str:
    """Return the part of the page: a line an answer, a column a kind of text."""
    names = list(dict.fromkeys(item.answer for item in measured))
    costs = ("floating point", "MB", "latency", "s")
    head = ("answer", f"at home ({HOME})", *SHIFTED, "worst", *costs)
    lines = [
        f"## {KIND.capitalize()}",
        "",
        f"Printed by `{command}`: {_MEANING}",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(_line(name, [item for item in measured if item.answer == name]) for name in names),
        "",
        *_sentences(measured),
    ]
    return "\n".join(wrapped("\n".join(lines))) + "\n"


def _line(name: str, items: Sequence[AnswerOnText]) -> str:
    ratios = {
        kind: max(item.ratio for item in items if item.kind == kind) for kind in (HOME, *SHIFTED)
    }
    figures = [f"{ratios[kind]:.3f}" for kind in (HOME, *SHIFTED)]
    worst = max(ratios[kind] for kind in SHIFTED)
    costs = (
        f"{max(item.floating for item in items):.1%}",
        f"{max(item.megabytes for item in items):.0f}",
        f"{np.median([item.latency for item in items]):.2f} x",
        f"{max(item.seconds for item in items):.0f}",
    )
    return f"| {' | '.join((name, *figures, f'{worst:.3f}', *costs))} |"


def _sentences(measured: Sequence[AnswerOnText]) -> list[str]:
    """Say which part of the drift's loss each answer wins back, over the shifts together."""
    by_answer = {
        name: {item.kind: item.ratio for item in measured if item.answer == name}
        for name in dict.fromkeys(item.answer for item in measured)
    }
    stale = by_answer.pop("en, stale")
    lost = sum(max(0.0, stale[kind] - stale[HOME]) for kind in SHIFTED)
    if lost <= 0:
        return ["- Other text costs nothing here."]
    won = {
        name: sum(stale[kind] - ratios[kind] for kind in SHIFTED) / lost
        for name, ratios in by_answer.items()
    }
    text = "of what other text costs is won back"
    return [f"- {name}: {part:.0%} {text}." for name, part in won.items()]
