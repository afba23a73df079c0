"""A language model that was calibrated on one kind of text, and what brings it back on another.

By the product's own functions from an observation to a graph, judged on ONNX Runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from sysconfig import get_paths
from time import perf_counter

import numpy as np
from tokenizers import Tokenizer

from benchmarks.harness import ours
from benchmarks.harness.ours import Candidate
from benchmarks.harness.subject import EXAMPLES, Subject
from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.language import held_out, smollm2
from infra.canonical import sha256
from infra.engines import open_target
from infra.engines.port import Arrays, Engine
from infra.weights.naming import whole_size
from tasks.models.corpus import read_corpus
from tasks.models.decoding.comparison import compare
from tasks.models.inputs import language_inputs
from tasks.observation.observer import SiteObservation
from tasks.observation.watch import watch
from tasks.quantization.recipe.catalog import find_recipe, renewed
from tasks.quantization.recipe.recipe import Recipe
from tasks.records import Payload

TITLE = "A language model under other text: perplexity over full precision's, by what it judges"
HOME, AWAY, CODE = "en", "ja", "code"
KINDS = (HOME, AWAY, CODE)
FLOOR = 1 / 16
"""Of the calibration windows, what a stratum keeps however rare it is: 4 of 64."""
SMOOTH = "int8-smooth"
PREFIX_TEXTS = 16
"""Windows in which a prefix is found."""
Observed = Mapping[str, SiteObservation]


class RememberedLogits:
    """Full precision, asked once for each batch."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._outputs = engine, dict[str, Arrays]()

    def run(self, feeds: Arrays) -> Arrays:
        """Return what full precision returns."""
        key = sha256(b"".join(np.ascontiguousarray(item).tobytes() for item in feeds.values()))
        if key not in self._outputs:
            self._outputs[key] = self._engine.run(feeds)
        return self._outputs[key]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much text is read."""

    tokens: int  # of a window
    calibration: int  # windows
    judged: int  # windows of each kind


FULL, QUICK = Sizes(256, 64, 24), Sizes(96, 16, 6)


@dataclass(frozen=True, slots=True)
class DriftRow:
    """One answer to drift; ratios are to full precision's perplexity, 1 is none lost."""

    name: str = column("calibrated on, and answer")
    home: float = column("on en", ".3f")
    away: float = column("on ja", ".3f")
    code: float = column("on code", ".3f")
    agreement: float = column("agreement on ja", ".3f")
    floating: float = column("weights in floating point", ".1%")
    megabytes: float = column("MB", ".0f")
    seconds: float = column("s to derive", ".0f")


@dataclass(frozen=True, eq=False)
class DriftMaterial:
    """A model and windows of text of each kind, in tokens of one number."""

    subject: Subject
    reference: Engine
    calibration: Mapping[str, tuple[Payload, ...]]
    judged: Mapping[str, tuple[Payload, ...]]

    def observe(self, payloads: Sequence[Payload]) -> Observed:
        """Pass over texts once."""
        chosen = self.subject
        return watch(chosen.instrumented, chosen.sites, chosen.inputs, payloads)


def measure(quick: bool) -> ResultTable:
    """Measure every answer, each from one observation."""
    sizes, has_real = QUICK if quick else FULL, smollm2.is_installed() and not quick
    material = open_material(sizes, real=has_real)
    rows = []
    for row in answers(material):
        sys.stderr.write(f"{row}\n")
        rows.append(row)
    counted = (
        f"{material.subject.name}: {sizes.calibration} windows of {sizes.tokens} tokens to "
        f"calibrate, {sizes.judged} of each kind to judge."
    )
    notes = (counted,) if has_real or quick else (counted, smollm2.MISSING)
    return ResultTable("llm-drift", TITLE, rows, goals(rows), notes)


def open_material(sizes: Sizes, *, real: bool, kinds: Sequence[str] = KINDS) -> DriftMaterial:
    """Open SmolLM2, or the shipped language model, with windows of text of these kinds."""
    chosen = smollm2.smollm2(sizes.tokens) if real else held_out.open_material(True).subject
    count = sizes.calibration + sizes.judged
    texts = {kind: _windows(chosen, kind, sizes.tokens, count) for kind in kinds}
    return DriftMaterial(
        chosen,
        RememberedLogits(chosen.reference),
        {kind: windows[: sizes.calibration] for kind, windows in texts.items()},
        {kind: windows[sizes.calibration :] for kind, windows in texts.items()},
    )


def _windows(chosen: Subject, kind: str, tokens: int, count: int) -> tuple[str, ...]:
    """Return so many texts of about `tokens` tokens, which follow each other."""
    tokenizer: Tokenizer = language_inputs(chosen.inputs)._tokenizer
    ids = tokenizer.encode(_text(kind), add_special_tokens=False).ids
    windows = [ids[place : place + tokens] for place in range(0, len(ids) - tokens, tokens)]
    return tuple(tokenizer.decode(window) for window in windows[:count])


def _text(kind: str) -> str:
    if kind == CODE:
        folder = Path(get_paths()["stdlib"])
        return "\n".join(path.read_text("utf-8") for path in sorted(folder.glob("[a-d]*.py")))
    path = EXAMPLES / "minilm" / "traffic.parquet"
    traffic = read_corpus(path.read_bytes(), where=str(path))
    return "\n".join(str(row.payload) for row in traffic if row.language == kind)


def answers(material: DriftMaterial) -> Iterator[DriftRow]:
    """Yield what a champion calibrated at home reaches, then each answer to the other text."""
    few = max(1, round(FLOOR * len(material.calibration[HOME])))
    home, away = (material.observe(material.calibration[kind]) for kind in (HOME, AWAY))
    champion = _derived(material, find_recipe(SMOOTH), home)
    yield _row(material, "en, stale", champion)
    new = (away, champion)
    yield _row(material, "ja, scales alone", _derived(material, find_recipe("recalibrate"), *new))
    for name in ("resmooth", "resmooth-mixed-6"):
        yield _row(material, f"ja, {name}", _derived(material, renew(name), *new))
    mixed = (*material.calibration[HOME][:-few], *material.calibration[AWAY][:few])
    floored = _derived(material, find_recipe(SMOOTH), material.observe(mixed))
    yield _row(material, f"en with a floor of {few} windows of ja", floored)
    drifting = with_drifting_sites_kept(material, champion, away, home)
    yield _row(material, "en, 6 sites that drift kept", drifting)
    for name in ("int8-headroom", "fp8", "int8-dynamic", "int8-per-token"):
        yield _row(material, f"en, {name}", _derived(material, find_recipe(name), home))
    if material.subject.name == smollm2.NAME:
        yield from behind_a_prefix(material)


def behind_a_prefix(material: DriftMaterial) -> Iterator[DriftRow]:
    """Yield answers of the model behind a prefix, beside full precision without one."""
    inputs, windows = language_inputs(material.subject.inputs), material.calibration[HOME]
    rows = [item.ids for item in inputs.read(list(map(str, windows[:PREFIX_TEXTS])))]
    behind = replace(material, subject=smollm2.behind_a_prefix(inputs.max_length, rows))
    ratios, agreements = judged(material, behind.subject.reference)
    yield DriftRow(
        "full precision behind a prefix",
        ratios[HOME],
        ratios[AWAY],
        ratios[CODE],
        agreements[AWAY],
        1.0,
        whole_size(behind.subject.source) / 1e6,
        0.0,
    )
    home, away = (behind.observe(behind.calibration[kind]) for kind in (HOME, AWAY))
    champion = _derived(behind, find_recipe(SMOOTH), home)
    yield _row(behind, "en, stale, behind a prefix", champion)
    again = _derived(behind, renew("resmooth"), away, champion)
    yield _row(behind, "ja, resmooth, behind a prefix", again)
    unsmoothed = (("", material, material.observe(windows)), (", behind a prefix", behind, home))
    for where, chosen, observed in unsmoothed:
        made = _derived(chosen, find_recipe("int8-max"), observed)
        yield _row(chosen, f"en, int8-max{where}", made)


def renew(name: str) -> Recipe:
    """Return the recipe that renews a smoothed champion."""
    return renewed(find_recipe(name), SMOOTH)


def with_drifting_sites_kept(
    material: DriftMaterial, champion: Candidate, away: Observed, home: Observed
) -> Candidate:
    """Keep what drifts in floating point, and everything else as it was calibrated at home."""
    told = _derived(material, renew("resmooth-mixed-6"), away, champion)
    kept = champion.derived.scales.keys() - told.derived.scales.keys()
    scales = {name: item for name, item in champion.derived.scales.items() if name not in kept}
    placed = replace(champion, derived=_with_scales(champion, scales))
    return _derived(material, renew("resmooth"), home, placed)


def _with_scales(champion: Candidate, scales: Mapping[str, object]) -> ours.Derived:
    derived, plan = champion.derived, champion.derived.plan
    sites = tuple(item for item in plan.sites if item.site.name in scales)
    return replace(derived, plan=replace(plan, sites=sites))


def _derived(
    material: DriftMaterial, recipe: Recipe, observed: Observed, champion: Candidate | None = None
) -> Candidate:
    return ours.derived(material.subject, recipe, observed, champion)


def judged(
    material: DriftMaterial, engine: Engine
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Return perplexity over full precision's and agreement with it, by kind of text."""
    inputs = language_inputs(material.subject.inputs)
    ratios, agreements = dict[str, float](), dict[str, float]()
    for kind, texts in material.judged.items():
        both = compare(material.reference, engine, inputs, texts)
        ratios[kind] = float(np.exp((both.candidate_loss - both.reference_loss).mean()))
        agreements[kind] = float(both.agreement.mean())
    return ratios, agreements


def _row(material: DriftMaterial, name: str, candidate: Candidate) -> DriftRow:
    plan = candidate.lowered("u8")
    started = perf_counter()
    engine = open_target("onnxruntime-cpu").load(plan)
    ratios, agreements = judged(material, engine)
    sys.stderr.write(f"judged in {perf_counter() - started:.0f} s\n")
    return DriftRow(
        name,
        ratios[HOME],
        ratios[AWAY],
        ratios[CODE],
        agreements[AWAY],
        max(0.0, 1 - candidate.quantized_share),
        whole_size(plan) / 1e6,
        candidate.clock.total,
    )


def goals(rows: Sequence[DriftRow]) -> tuple[Goal, ...]:
    """Return the goals: what new smoothing wins back, and what a floor keeps."""
    away = {row.name: row.away for row in rows}
    stale, again = away["en, stale"], away["ja, resmooth"]
    won = (stale - again) / (stale - 1) if stale > 1.02 else None
    floor = next(row.away for row in rows if "floor" in row.name)
    return (
        Goal("fraction of the drift's loss that new smoothing wins back:", 0.9, won),
        Goal("perplexity ratio on ja after new smoothing:", 1.05, again, "at most"),
        Goal("perplexity ratio on ja with a floor:", 1.08, floor, "at most"),
    )
