"""How likely an engine finds given continuations: the context in one prefill, the continuation over its cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Arrays, Engine
from infra.errors import BadInput
from tasks.models.batches import BATCH
from tasks.models.language.inputs import Ids, padded, prefill_feeds
from tasks.models.language.layout import LOGITS, CacheLayout

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Continuation:
    """Tokens to score, and those before them; neither is empty."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What an engine makes of one continuation."""

    logarithm: float  # natural, of its probability after the context
    greedy: bool  # every token of it is the likeliest at its place


def likelihoods(
    engine: Engine, layout: CacheLayout, asked: Sequence[Continuation]
) -> list[Likelihood]:
    """Each continuation's likelihood, in order. Those of like length share a batch.

    Raises `BadInput` for an empty context or continuation and for logits that are not finite.
    """
    if not all(one.context and one.tokens for one in asked):
        raise BadInput("a context or a continuation has no tokens: nothing can be scored")
    order = sorted(
        range(len(asked)),
        key=lambda case: (len(asked[case].context), len(asked[case].tokens), case),
    )
    found: dict[int, Likelihood] = {}
    for start in range(0, len(order), BATCH):
        cases = order[start : start + BATCH]
        found.update(
            zip(cases, _batch(engine, layout, [asked[case] for case in cases]), strict=True)
        )
    return [found[case] for case in range(len(asked))]


def over_cache(layout: CacheLayout, before: Arrays, seen: Ids, ids: Ids, mask: Ids) -> Arrays:
    """Feeds of more tokens over what a step returned: ids and mask [batch, T], seen [batch, P] the cached ones'."""
    cache = {f"past.{name}": before[f"present.{name}"] for name in layout.names}
    positions = seen.sum(axis=1, keepdims=True) + np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "past_mask": seen,
        **cache,
    }


def _batch(engine: Engine, layout: CacheLayout, asked: Sequence[Continuation]) -> list[Likelihood]:
    ids, seen = padded([one.context for one in asked], left=True)
    read = engine.run(prefill_feeds(layout, ids, seen))
    logits = read[LOGITS][:, -1:]
    if any(len(one.tokens) > 1 for one in asked):
        more, mask = padded([one.tokens[:-1] or (0,) for one in asked])
        mask[[len(one.tokens) == 1 for one in asked]] = 0
        logits = np.concatenate(
            [logits, engine.run(over_cache(layout, read, seen, more, mask))[LOGITS]], axis=1
        )
    return [
        _scored(rows[: len(one.tokens)], one.tokens)
        for rows, one in zip(logits, asked, strict=True)
    ]


def _scored(logits: Logits, tokens: Sequence[int]) -> Likelihood:
    """Logits before each token [tokens, vocabulary]."""
    if not np.isfinite(logits).all():
        raise BadInput("the logits hold NaN or infinity: the engine is broken, rebuild it")
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    chosen = shifted[np.arange(len(tokens)), list(tokens)]
    return Likelihood(
        float((chosen - np.log(np.exp(shifted).sum(axis=-1))).sum()),
        bool((logits.argmax(axis=-1) == np.asarray(tokens)).all()),
    )
