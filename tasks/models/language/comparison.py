"""A candidate beside full precision on the same texts, token by token, each given the true tokens before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from infra.errors import BadInput
from tasks.models.batches import BATCH
from tasks.models.language.inputs import Ids, LanguageInputs, padded, prefill_feeds
from tasks.models.language.layout import LOGITS, CacheLayout
from tasks.models.language.likelihood import over_cache
from tasks.records import Payload

Scores = NDArray[np.float64]
CACHE_STEPS = 16
"""Tokens of a text that are read over the cache: enough to read all of it again and again, and cheap."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Means over each text's tokens, [texts]."""

    reference_loss: (
        Scores  # negative log-likelihood a token, in nats; perplexity is its exponential
    )
    candidate_loss: Scores
    agreement: Scores  # share of tokens after which both find the same next token likeliest
    divergence: Scores  # Kullback-Leibler, candidate from full precision, in nats
    tokens: NDArray[np.int64]  # that each mean of agreement is over


def compare(
    reference: Engine, candidate: Engine, inputs: LanguageInputs, payloads: Sequence[Payload]
) -> Comparison:
    """Both engines on every text. A text of one token predicts nothing: its losses are 0.

    Raises `BadInput` for logits that are not finite, or of another shape than full precision's.
    """
    found = np.zeros((5, len(payloads)))
    for batch in inputs.batches(payloads):
        expected, served = (
            _log_shares(engine.run(batch.feeds)[LOGITS], name)
            for engine, name in _named(reference, candidate)
        )
        if expected.shape != served.shape:
            raise BadInput(
                f"the candidate's logits are {served.shape} and full precision's {expected.shape}"
            )
        ids = np.asarray(batch.feeds["input_ids"], np.int64)
        found[:, batch.cases] = _scores(ids, np.asarray(batch.mask, bool), expected, served)
    return _comparison(found)


def compare_cached(
    reference: Engine, candidate: Engine, inputs: LanguageInputs, payloads: Sequence[Payload]
) -> Comparison | None:
    """The last tokens of every text, read one a step over the candidate's cache, beside full precision's prefill.

    Each step is given the true tokens before it; full precision reads the text at once, which is the same arithmetic.
    None where the candidate caches floats: it then repeats what `compare` saw. Raises `BadInput` as that does.
    """
    encoded = [ids[: inputs.max_length] for ids in inputs.encode([str(item) for item in payloads])]
    order = sorted(range(len(encoded)), key=lambda case: (len(encoded[case]), case))
    found = np.zeros((5, len(encoded)))
    for start in range(0, len(order), BATCH):
        cases = order[start : start + BATCH]
        ids, mask = padded([encoded[case] for case in cases], left=True)
        steps = min(CACHE_STEPS, ids.shape[1] - 1)
        served = _stepped(candidate, inputs.layout, ids, mask, steps)
        if served is None:
            return None
        if steps:
            expected = _log_shares(
                reference.run(prefill_feeds(inputs.layout, ids, mask))[LOGITS][:, -steps:],
                "full precision",
            )
            real = (mask[:, -steps:] * mask[:, -steps - 1 : -1]).astype(
                bool
            )  # something of the text was cached before
            found[:, cases] = _scores(ids[:, -steps:], real, expected, served)
    return _comparison(found)


def _comparison(found: Scores) -> Comparison:
    """Fields in order, [5, texts]."""
    before, after, agreement, divergence, tokens = found
    return Comparison(before, after, agreement, divergence, tokens.astype(np.int64))


def _stepped(
    candidate: Engine, layout: CacheLayout, ids: Ids, mask: Ids, steps: int
) -> NDArray[np.float32] | None:
    """Log-shares after each of the last tokens, [batch, steps, vocabulary]; None for a cache of floats."""
    width = ids.shape[1]
    read = candidate.run(prefill_feeds(layout, ids[:, : width - steps], mask[:, : width - steps]))
    if np.issubdtype(read[f"present.{layout.names[0]}"].dtype, np.floating):
        return None
    found = []
    for place in range(width - steps, width):
        one = slice(place, place + 1)
        read = candidate.run(over_cache(layout, read, mask[:, :place], ids[:, one], mask[:, one]))
        found.append(read[LOGITS])
    return (
        _log_shares(np.concatenate(found, axis=1), "the candidate")
        if found
        else np.zeros((len(ids), 0, 0), np.float32)
    )


def _named(reference: Engine, candidate: Engine) -> tuple[tuple[Engine, str], tuple[Engine, str]]:
    return (reference, "full precision"), (candidate, "the candidate")


def _log_shares(logits: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Logarithms of the next token's probabilities, [batch, tokens, vocabulary]."""
    if not np.isfinite(logits).all():
        raise BadInput(
            f"the logits of {name} hold NaN or infinity: the engine is broken, rebuild it"
        )
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)


def _scores(
    ids: Ids, real: NDArray[np.bool_], expected: NDArray[np.float32], served: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Of ids [batch, tokens] where `real`, and log-shares after each: the fields of a comparison."""
    following = ids[:, 1:, None]
    losses = [
        -np.take_along_axis(side[:, :-1], following, axis=-1)[..., 0] for side in (expected, served)
    ]
    agree = expected.argmax(axis=-1) == served.argmax(axis=-1)
    divergence = (np.exp(expected) * (expected - served)).sum(axis=-1)
    return np.stack(
        [
            *(_mean(loss, real[:, 1:]) for loss in losses),
            _mean(agree, real),
            np.maximum(_mean(divergence, real), 0),
            real.sum(axis=1),
        ]
    )


def _mean(values: NDArray[np.generic], real: NDArray[np.bool_]) -> Scores:
    return np.asarray(
        (values.astype(np.float64) * real).sum(axis=1) / np.maximum(real.sum(axis=1), 1)
    )
