"""How fast two engines write: time to first token, and tokens a second of prefill and of decode.

One prompt at a time through the very calls that generation makes, both engines in turn, within a
stated time. What of the prompts does not fit into that time is cut.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Arrays, Engine
from infra.errors import BadInput
from tasks.models.decoding.likelihood import over_cache, read_keeping
from tasks.models.language.inputs import LanguageInputs, padded, prefill_feeds
from tasks.models.language.layout import LOGITS, CacheLayout

ROUNDS = 15
STEPS = 8
"""Tokens that are written after the prompt in one round."""
SECONDS = 25.0
"""Longest that a measurement of both engines takes, on an engine that reads a few tokens at all."""
_PROBE = 16
_CUTS = 4
"""How often the cut is held against what it took."""
_OVER = 1.25
"""A part of a round may take so many times its share."""
_PARTS = 3
"""Of a round: a prompt, tokens after it, and as many tokens as the model reads."""
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Workload:
    """What both engines do in every round; token ids."""

    prompt: tuple[int, ...]  # a typical one
    longest: tuple[int, ...]  # as much as the model reads at once
    steps: int  # tokens to write after the prompt


@dataclass(frozen=True, slots=True, eq=False)
class GenerationTimes:
    """Seconds that one engine took in each round, [R]."""

    first_token: NDArray[np.float64]  # from a prompt's ids to the first token
    prefill: NDArray[np.float64]  # to read the longest prompt
    decode: NDArray[np.float64]  # to write all further tokens over the cache


@dataclass(frozen=True, slots=True, eq=False)
class PairedGeneration:
    """Both engines on the same prompts, in turn."""

    workload: Workload
    reference: GenerationTimes
    candidate: GenerationTimes


def typical_workload(inputs: LanguageInputs, texts: Sequence[str]) -> Workload:
    """Return the prompt of median length, and all prompts together as far as the model reads.

    Raises:
        BadInput: There are no texts.
    """
    if not texts:
        raise BadInput("there is no golden case to write after: add some to the golden set")
    prompts = sorted(inputs.prompts(texts), key=len)
    longest = [token for prompt in prompts for token in prompt][: inputs.max_length]
    steps = min(STEPS, inputs.new_tokens)
    return Workload(tuple(prompts[len(prompts) // 2]), tuple(longest), steps)


def paired_generation(
    reference: Engine,
    candidate: Engine,
    layout: CacheLayout,
    workload: Workload,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    clock: Clock = perf_counter,
) -> PairedGeneration:
    """Measure both engines, whoever goes first alternating, for at most so many seconds.

    Prompts are cut, and fewer tokens written, where so many rounds would take longer: by what a few
    tokens take, and then by what the cut work itself took, since attention costs more a token the
    longer a text is. Where that is not enough, there are fewer rounds, and at least one.

    Args:
        reference: Full precision.
        candidate: What is compared with it.
        layout: Their cache.
        workload: What they read and write.
        rounds: How often.
        seconds: How long at most; the calls that find the cut come on top.
        clock: Seconds, from any start.
    """
    engines = reference, candidate
    fitting = _fitting(engines, layout, workload, seconds / rounds / _PARTS, clock)
    started = clock()
    measured: list[list[tuple[float, float, float]]] = [[], []]
    slowest = 0.0
    for index in range(rounds):
        begun = clock()
        if index and begun - started + slowest > seconds:
            break
        for side in (0, 1) if index % 2 == 0 else (1, 0):
            measured[side].append(_round(engines[side], layout, fitting, clock))
        slowest = max(slowest, clock() - begun)
    before, after = (GenerationTimes(*np.array(side, np.float64).T) for side in measured)
    return PairedGeneration(fitting, before, after)


def _fitting(
    engines: Sequence[Engine], layout: CacheLayout, workload: Workload, share: float, clock: Clock
) -> Workload:
    """Cut a workload so that both engines together take about `share` seconds for each part."""
    probe = replace(
        workload, prompt=workload.prompt[:_PROBE], longest=workload.longest[:1], steps=1
    )
    for _ in range(2):  # the first call of an engine is no measure
        first, decode, _ = _both(engines, layout, probe, clock)
    token = first / len(probe.prompt)
    fitting = _cut(workload, share, token, token, decode)
    for _ in range(_CUTS):
        if fitting.steps == 1 and len(fitting.longest) == 1:
            break  # nothing is left to cut, and each round of it is dear
        first, decode, prefill = _both(engines, layout, fitting, clock)
        if max(first, decode, prefill) <= _OVER * share:
            break
        fitting = _cut(
            fitting,
            share,
            first / len(fitting.prompt),
            prefill / len(fitting.longest),
            decode / fitting.steps,
        )
    return fitting


def _cut(workload: Workload, share: float, prompt: float, longest: float, step: float) -> Workload:
    """Keep of each part what fits into `share` seconds, given those that a token of it takes."""
    return Workload(
        workload.prompt[: _affordable(share, prompt)],
        workload.longest[: _affordable(share, longest)],
        min(workload.steps, _affordable(share, step)),
    )


def _both(
    engines: Sequence[Engine], layout: CacheLayout, workload: Workload, clock: Clock
) -> tuple[float, float, float]:
    """Return the seconds that all engines took for each part of a round."""
    taken = np.array([_round(engine, layout, workload, clock) for engine in engines])
    first, decode, prefill = taken.sum(axis=0).tolist()
    return first, decode, prefill


def _affordable(seconds: float, token: float) -> int:
    """Return how many tokens fit into so many seconds; at least one."""
    return max(1, int(seconds / max(token, 1e-9)))


def _round(
    engine: Engine, layout: CacheLayout, workload: Workload, clock: Clock
) -> tuple[float, float, float]:
    """Return the seconds of first token, prefill and decode."""
    started = clock()
    read = read_keeping(engine, _prompt(layout, workload.prompt))
    token = _likeliest(read)
    first = clock() - started
    started = clock()
    for step in range(workload.steps):
        cached = np.ones((1, len(workload.prompt) + step), np.int64)
        ids = np.array([[token]], np.int64)
        read = read_keeping(engine, over_cache(layout, read, cached, ids, np.ones_like(ids)))
        token = _likeliest(read)
    decode = clock() - started
    started = clock()
    engine.run(_prompt(layout, workload.longest))
    return first, clock() - started, decode


def _prompt(layout: CacheLayout, ids: Sequence[int]) -> Arrays:
    return prefill_feeds(layout, *padded([ids]))


def _likeliest(outputs: Mapping[str, Any]) -> int:
    return int(outputs[LOGITS][0, -1].argmax())
