"""An attacker with a twentieth of the traffic: how far it moves a scale, and what that costs everyone else."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np

from benchmarks.harness import ours, subject
from benchmarks.harness.ours import Candidate
from benchmarks.harness.processes import spread
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.quantization import sets
from infra.engines import open_target
from infra.engines.port import Engine
from tasks.metrics.scores import cosine
from tasks.models.inputs import run_all
from tasks.observation.request_amax import watch_amax
from tasks.payloads import fingerprint
from tasks.records import Payload, Request, Tensor
from tasks.specs.spec import CalibrationSpec

SHARE = 0.05
SEEDS = range(10, 15)
"""Windows, each of traffic drawn anew; by none of these was any rule chosen."""
TENANTS = 8
START = datetime(2026, 1, 5, tzinfo=UTC)
RULES = CalibrationSpec()
RECIPES = ("recalibrate", "recalibrate-mse")
ONE, MANY = "one tenant, as extreme as it can", "many tenants, as extreme as they can"
NOBODY = "nobody: as many other honest requests"
"""The control: what a rule moves when nothing is wrong."""
FEW = (ONE, NOBODY)
"""Kinds that a quick run shows."""


@dataclass(frozen=True, slots=True)
class PoisoningRow:
    """One attack on one model."""

    model: str = column("model")
    attack: str = column("attack")
    recipe: str = column("recipe")
    undefended: float = column("largest scale move, undefended", ".4f")
    moved: float = column("defended", ".4f")
    site: str = column("of the site")
    lost: float = column("fidelity lost by everyone else", ".6f")
    caught: float = column("attackers set aside", ".2f")
    honest: int = column("honest requests set aside", "d")


def measure(quick: bool) -> ResultTable:
    """Every attack on the digits and on MiniLM, over several windows."""
    seeds = SEEDS[:1] if quick else SEEDS
    pieces = [(name, seed) for name in ("minilm", "digits") for seed in seeds]
    workers = 1 if quick else min(len(SEEDS), len(os.sched_getaffinity(0)))
    found = dict(spread(partial(_piece, quick), pieces, workers))
    rows = [
        row
        for name in ("digits", "minilm")
        for row in worst([row for seed in seeds for row in found[name, seed]])
    ]
    title = f"Poisoning: an attacker sends {SHARE:.0%} of the traffic; the worst of {len(seeds)} windows"
    return ResultTable("poisoning", title, rows, goals(rows), (NOTE,))


def _piece(quick: bool, piece: tuple[str, int]) -> list[PoisoningRow]:
    name, seed = piece
    return attacked(
        subject.digits(quick) if name == "digits" else subject.minilm(quick), [seed], quick
    )


NOTE = (
    "Scale moves are relative to the champion recalibrated on the same honest traffic alone; fidelity is the mean "
    "cosine to full precision on held-out cases. Undefended: strata, tenant cap and anchor alone."
)


def attacked(chosen: Subject, seeds: Sequence[int], quick: bool) -> list[PoisoningRow]:
    """The worst of all windows for every attack and recipe."""
    engine, champion = sets.instrumented(chosen), ours.quantize(chosen, "int8-smooth")
    rows = [
        row
        for seed in seeds
        for row in _window(
            chosen, engine, champion, np.random.default_rng(seed), 128 if quick else 256, quick
        )
    ]
    return worst(rows)


def worst(rows: Sequence[PoisoningRow]) -> list[PoisoningRow]:
    """Of one model, for every attack and recipe."""
    found: dict[tuple[str, str], PoisoningRow] = {}
    for row in rows:
        known = found.setdefault((row.attack, row.recipe), row)
        found[row.attack, row.recipe] = _worse(known, row)
    return list(found.values())


def goals(rows: Sequence[PoisoningRow]) -> tuple[Goal, ...]:
    """The largest move and the largest loss over every attack, for each recipe."""
    found = []
    for recipe in RECIPES:
        attacks = [row for row in rows if row.recipe == recipe and row.attack != NOBODY]
        found += [
            Goal(
                f"{recipe}: largest relative move of a scale:",
                0.05,
                max(row.moved for row in attacks),
                "at most",
            ),
            Goal(
                f"{recipe}: largest fidelity lost:",
                0.001,
                max(row.lost for row in attacks),
                "at most",
            ),
        ]
    return tuple(found)


def _window(
    chosen: Subject,
    engine: Engine,
    champion: Candidate,
    rng: np.random.Generator,
    size: int,
    few: bool,
) -> list[PoisoningRow]:
    honest = _honest(chosen, rng)
    clean = {
        rules: sets.composed(chosen, engine, honest, size, rules, champion)
        for rules in (sets.OFF, RULES)
    }
    base = {
        (rules, recipe): sets.recalibrated(chosen, clean[rules], recipe, champion, rules)
        for rules in clean
        for recipe in RECIPES
    }
    usual = {recipe: _fidelity(chosen, base[RULES, recipe]) for recipe in RECIPES}
    rows = []
    for name, requests in attacks(chosen, engine, honest, rng, few).items():
        found = {
            rules: sets.composed(chosen, engine, [*honest, *requests], size, rules, champion)
            for rules in clean
        }
        for recipe in RECIPES:
            after = {
                rules: sets.recalibrated(chosen, found[rules], recipe, champion, rules)
                for rules in clean
            }
            site, moved = sets.largest_move(base[RULES, recipe], after[RULES])
            _, undefended = sets.largest_move(base[sets.OFF, recipe], after[sets.OFF])
            lost = usual[recipe] - _fidelity(chosen, after[RULES])
            present = {one.request_id for one in found[RULES].sample.requests} | found[
                RULES
            ].quarantined
            sampled = [one.request_id for one in requests if one.request_id in present]
            caught = sum(one in found[RULES].quarantined for one in sampled) / max(len(sampled), 1)
            wrong = len(found[RULES].quarantined - {one.request_id for one in requests})
            rows.append(
                PoisoningRow(
                    chosen.name, name, recipe, undefended, moved, site, lost, caught, wrong
                )
            )
    return rows


def _honest(chosen: Subject, rng: np.random.Generator) -> list[Request]:
    rows = [one for one in chosen.traffic if one.language in ("en", "none")]
    drawn = [rows[place] for place in rng.permutation(len(rows))[:1000]]
    return [_request(one, f"honest-{n}", f"tenant-{n % TENANTS}", n) for n, one in enumerate(drawn)]


def attacks(
    chosen: Subject,
    engine: Engine,
    honest: Sequence[Request],
    rng: np.random.Generator,
    few: bool = False,
) -> Mapping[str, list[Request]]:
    """What the attacker sends, by kind; it knows the model and picks what reaches furthest."""
    count = round(len(honest) * SHARE / (1 - SHARE))
    bank = _bank(chosen, honest, rng)
    ratios = _times_usual(chosen, engine, honest, [payload for payload, _ in bank])
    order = np.argsort(-ratios)
    huge = [bank[place][0] for place in order[:count]]
    moderate = [bank[place][0] for place in order if ratios[place] < 1.9][:count]
    tiny: list[Payload] = [_tiny(honest[0].payload, number) for number in range(count)]
    one, many = (lambda n: "attacker"), (lambda n: f"sybil-{n}")
    kinds: dict[str, tuple[Sequence[Payload], Callable[[int], str], bool]] = {
        ONE: (huge, one, False),
        MANY: (huge, many, False),
        "many tenants, less than twice what is usual": (moderate, many, False),
        "the same, each in a domain and language of its own": (moderate, many, True),
        "many tenants, hardly anything": (tiny, many, False),
    }
    harmless = [one.payload for one in _others(chosen, honest)][:count]
    kinds[NOBODY] = (harmless, lambda n: f"tenant-{n % TENANTS}", False)
    if few:
        kinds = {name: kinds[name] for name in FEW}
    return {
        name: [
            _attack(honest[n], payload, f"attack-{n}", tenant(n), n, own)
            for n, payload in enumerate(payloads)
        ]
        for name, (payloads, tenant, own) in kinds.items()
    }


def _others(chosen: Subject, honest: Sequence[Request]) -> list[Request]:
    """Honest requests that the window does not hold; the pool's where it holds them all."""
    held = {fingerprint(one.payload) for one in honest}
    rows = [
        one
        for one in (*chosen.traffic, *sets.pool_of(chosen))
        if one.language == honest[0].language
    ]
    return [one for one in rows if fingerprint(one.payload) not in held]


def _bank(
    chosen: Subject, honest: Sequence[Request], rng: np.random.Generator
) -> list[tuple[Payload, float]]:
    """Inputs that nobody sends: amplified images; garbage, repetition and other scripts as texts."""
    if isinstance(honest[0].payload, str):
        letters = [
            "!",
            "=",
            "\u200b",
            "🤖",
            "ꙮ",
            "0",
            "Ω",
            "的",
            "؟",
            "\\x00 ",
            "<unk> ",
            "[SEP] ",
            "lorem ",
            "]]>",
            "zzzz ",
        ]
        texts = [letter * int(times) for letter in letters for times in (1, 3, 30, 400)]
        words = " ".join(str(one.payload) for one in honest[:60]).split()
        texts += [
            " ".join(rng.permutation(words)[:length])
            for length in (2, 8, 40, 120)
            for _ in range(30)
        ]
        texts += [
            "".join(chr(int(code)) for code in rng.integers(33, 0x2FFF, 60)) for _ in range(60)
        ]
        return [(text, 1.0) for text in dict.fromkeys(texts)]
    images = [np.asarray(one.payload, np.float32) for one in honest[:120]]
    factors = (1.05, 1.2, 1.5, 1.8, 4.0, 1000.0)
    return [(image * np.float32(factor), factor) for factor in factors for image in images[:40]]


def _times_usual(
    chosen: Subject, engine: Engine, honest: Sequence[Request], bank: Sequence[Payload]
) -> Tensor:
    """How many times the honest peak each payload reaches at the site where it reaches furthest."""
    usual = watch_amax(
        engine, chosen.sites, chosen.inputs, [one.payload for one in honest[:256]]
    ).amax.max(axis=0)
    peaks = watch_amax(engine, chosen.sites, chosen.inputs, bank).amax
    found: Tensor = (peaks / usual).max(axis=1).astype(np.float32)
    return found


def _tiny(payload: Payload, number: int) -> Payload:
    if isinstance(payload, str):
        return chr(0x61 + number % 26) * (1 + number // 26)
    return np.asarray(payload, np.float32) * np.float32(1e-6 * (1 + number))


def _attack(
    like: Request, payload: Payload, name: str, tenant: str, number: int, own: bool
) -> Request:
    request = replace(_request(like, name, tenant, number), payload=payload)
    return replace(request, domain=name, language=f"x{number}") if own else request


def _request(one: Request, name: str, tenant: str, number: int) -> Request:
    return replace(one, request_id=name, tenant=tenant, time=START + timedelta(seconds=number))


def _fidelity(chosen: Subject, candidate: Candidate) -> float:
    engine = open_target("onnxruntime-cpu").load(candidate.lowered("u8"))
    scores = [
        cosine(chosen.expected[group], run_all(engine, chosen.inputs, cases))
        for group, cases in chosen.held_out.items()
    ]
    return float(np.concatenate(scores).mean())


def _worse(one: PoisoningRow, other: PoisoningRow) -> PoisoningRow:
    moved = max(one, other, key=lambda row: row.moved)
    return replace(
        moved,
        undefended=max(one.undefended, other.undefended),
        lost=max(one.lost, other.lost),
        caught=min(one.caught, other.caught),
        honest=max(one.honest, other.honest),
    )
