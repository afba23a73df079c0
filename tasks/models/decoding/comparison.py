"""A candidate beside full precision on the same texts, token by token.

Each token is given the true tokens before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.metrics.next_token import log_probabilities, next_token_scores, scores_of_logits
from tasks.models.batches import BATCH
from tasks.models.decoding.likelihood import over_cache
from tasks.models.language.inputs import (
    Ids,
    LanguageInputs,
    by_length,
    counted_tokens,
    padded,
    prefill_feeds,
)
from tasks.models.language.layout import LOGITS, CacheLayout
from tasks.records import Payload

Scores = NDArray[np.float64]
CACHE_STEPS = 16
"""Tokens of a text that are read over the cache: enough to read all of it again, and cheap."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Means over each text's tokens, [texts]."""

    reference_loss: Scores  # negative log-likelihood a token, in nats; its exponential: perplexity
    candidate_loss: Scores
    agreement: Scores  # fraction of tokens after which both find the same next token likeliest
    divergence: Scores  # Kullback-Leibler, candidate from full precision, in nats
    tokens: NDArray[np.int64]  # that each mean of agreement is over


def compare(
    reference: Engine, candidate: Engine, inputs: LanguageInputs, payloads: Sequence[Payload]
) -> Comparison:
    """Compare both engines on every text. A text of one token predicts nothing: its losses are 0.

    Raises:
        BadInput: for logits that are not finite, or of another shape than full precision's.
    """
    scores = np.zeros((5, len(payloads)))
    for batch in inputs.batches(payloads):
        expected = reference.run(batch.feeds)[LOGITS]
        served = expected if candidate is reference else candidate.run(batch.feeds)[LOGITS]
        ids = np.asarray(batch.feeds["input_ids"], np.int64)
        real = np.asarray(batch.mask, bool)
        scores[:, batch.cases] = scores_of_logits(ids, real, expected, served, batch.counted)
    return comparison_of(scores)


def compare_cached(
    reference: Engine, candidate: Engine, inputs: LanguageInputs, payloads: Sequence[Payload]
) -> Comparison | None:
    """Compare the last tokens of every text, read one a step over the candidate's cache.

    Each step is given the true tokens before it. Full precision reads the text at once, which is
    the same arithmetic.

    Returns:
        None where the candidate caches floats: it then repeats what `compare` measures.

    Raises:
        BadInput: for logits that are not finite, or of another shape than full precision's.
    """
    readings = inputs.read([str(item) for item in payloads])
    order = by_length(readings)
    scores = np.zeros((5, len(readings)))
    for start in range(0, len(order), BATCH):
        cases = order[start : start + BATCH]
        ids, mask = padded([readings[case].ids for case in cases], left=True)
        steps = min(CACHE_STEPS, ids.shape[1] - 1)
        served = _stepped(candidate, inputs.layout, ids, mask, steps)
        if served is None:
            return None
        if steps:
            expected = _last_steps(reference, inputs.layout, ids, mask, steps)
            # Only where something of the text was cached before.
            real = (mask[:, -steps:] * mask[:, -steps - 1 : -1]).astype(bool)
            counted = counted_tokens([readings[case] for case in cases], ids.shape[1], left=True)
            last = None if counted is None else counted[:, -steps:]
            scores[:, cases] = next_token_scores(ids[:, -steps:], real, expected, served, last)
    return comparison_of(scores)


def comparison_of(scores: Scores) -> Comparison:
    """Return what `next_token_scores` [5, texts] are, by name."""
    before, after, agreement, divergence, tokens = scores
    return Comparison(before, after, agreement, divergence, tokens.astype(np.int64))


def _last_steps(
    reference: Engine, layout: CacheLayout, ids: Ids, mask: Ids, steps: int
) -> NDArray[np.float32]:
    """Return full precision's log-probabilities after the last tokens.

    [batch, steps, vocabulary].
    """
    logits = reference.run(prefill_feeds(layout, ids, mask))[LOGITS][:, -steps:]
    return log_probabilities(logits, "full precision")


def _stepped(
    candidate: Engine, layout: CacheLayout, ids: Ids, mask: Ids, steps: int
) -> NDArray[np.float32] | None:
    """Return log-probabilities after each of the last tokens, [batch, steps, vocabulary].

    None for a cache of floats.
    """
    width = ids.shape[1]
    read = candidate.run(prefill_feeds(layout, ids[:, : width - steps], mask[:, : width - steps]))
    if np.issubdtype(read[f"present.{layout.names[0]}"].dtype, np.floating):
        return None
    logits = []
    for place in range(width - steps, width):
        token = slice(place, place + 1)
        feeds = over_cache(layout, read, mask[:, :place], ids[:, token], mask[:, token])
        read = candidate.run(feeds)
        logits.append(read[LOGITS])
    if not logits:
        return np.zeros((len(ids), 0, 0), np.float32)
    return log_probabilities(np.concatenate(logits, axis=1), "the candidate")
