"""How likely an engine finds given continuations.

The context is read in one prefill, the continuation over its cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Arrays, Engine, KeepingEngine
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
    engine: Engine, layout: CacheLayout, continuations: Sequence[Continuation]
) -> list[Likelihood]:
    """Return each continuation's likelihood, in order; those of like length share a batch.

    Raises:
        BadInput: for an empty context or continuation and for logits that are not finite.
    """
    if not all(item.context and item.tokens for item in continuations):
        raise BadInput("a context or a continuation has no tokens: nothing can be scored")
    order = sorted(
        range(len(continuations)),
        key=lambda case: (len(continuations[case].context), len(continuations[case].tokens), case),
    )
    scored: dict[int, Likelihood] = {}
    for start in range(0, len(order), BATCH):
        cases = order[start : start + BATCH]
        scored.update(
            zip(cases, _batch(engine, layout, [continuations[case] for case in cases]), strict=True)
        )
    return [scored[case] for case in range(len(continuations))]


def over_cache(
    layout: CacheLayout, before: Mapping[str, Any], cached_mask: Ids, ids: Ids, mask: Ids
) -> Mapping[str, Any]:
    """Return feeds of more tokens over what a step returned.

    Ids and mask are [batch, T], `cached_mask` is of the tokens before, [batch, P].
    """
    cache = {f"past.{name}": before[f"present.{name}"] for name in layout.names}
    positions = cached_mask.sum(axis=1, keepdims=True) + np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "past_mask": cached_mask,
        **cache,
    }


def read_keeping(engine: Engine, feeds: Mapping[str, object]) -> Mapping[str, Any]:
    """Run one step whose cache is read by the next step alone: it stays with the engine if it can.

    Returns:
        The logits as an array, and the cache as the next step takes it.
    """
    if isinstance(engine, KeepingEngine):
        return engine.run_keeping(feeds, (LOGITS,))
    return engine.run(cast("Arrays", feeds))


def _batch(
    engine: Engine, layout: CacheLayout, continuations: Sequence[Continuation]
) -> list[Likelihood]:
    ids, context_mask = padded([item.context for item in continuations], left=True)
    read = engine.run(prefill_feeds(layout, ids, context_mask))
    logits = read[LOGITS][:, -1:]
    if any(len(item.tokens) > 1 for item in continuations):
        more, mask = padded([item.tokens[:-1] or (0,) for item in continuations])
        mask[[len(item.tokens) == 1 for item in continuations]] = 0
        logits = np.concatenate(
            [logits, engine.run(over_cache(layout, read, context_mask, more, mask))[LOGITS]], axis=1
        )
    return [
        _scored(rows[: len(item.tokens)], item.tokens)
        for rows, item in zip(logits, continuations, strict=True)
    ]


def _scored(logits: Logits, tokens: Sequence[int]) -> Likelihood:
    """Score logits before each token [tokens, vocabulary]."""
    if not np.isfinite(logits).all():
        raise BadInput("the logits hold NaN or infinity: the engine is broken, rebuild it")
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    chosen = shifted[np.arange(len(tokens)), list(tokens)]
    return Likelihood(
        float((chosen - np.log(np.exp(shifted).sum(axis=-1))).sum()),
        bool((logits.argmax(axis=-1) == np.asarray(tokens)).all()),
    )
