"""Scores of a writing model's logits: token agreement, loss (perplexity) and divergence.

Logits are [batch, tokens, vocabulary]: at each place, of the token that comes next.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput

Logits = NDArray[np.float32]
Scores = NDArray[np.float64]
"""One number per text, [batch]."""
TOKENS_AT_ONCE = 32
"""Of a text whose logits are scored."""


def log_probabilities(logits: Logits, name: str) -> Logits:
    """Return logarithms of the next token's probabilities, [batch, tokens, vocabulary].

    Raises:
        BadInput: for logits that are not finite; the error says that they are of `name`.
    """
    if not np.isfinite(logits).all():
        raise BadInput(
            f"the logits of {name} hold NaN or infinity: the engine is broken, rebuild it"
        )
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)


def scores_of_logits(
    ids: NDArray[np.int64],
    real: NDArray[np.bool_],
    expected: Logits,
    served: Logits,
    counted: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return `next_token_scores` of logits [batch, tokens, vocabulary], text by text on every core.

    A vocabulary of 50,000 makes the arithmetic as dear as the model. A few tokens at a time, its
    temporary arrays are small beside the logits.

    Raises:
        BadInput: for logits that are not finite, or of two shapes.
    """
    require_same_shape(expected, served)
    following = _following(ids)

    def scored(row: int) -> NDArray[np.float32]:
        pieces = [
            (slice(row, row + 1), slice(start, start + TOKENS_AT_ONCE))
            for start in range(0, ids.shape[1], TOKENS_AT_ONCE)
        ]
        return np.concatenate(
            [
                _by_token(
                    following[piece],
                    log_probabilities(expected[piece], "full precision"),
                    log_probabilities(served[piece], "the candidate"),
                )
                for piece in pieces
            ],
            axis=2,
        )

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        by_token = np.concatenate(list(threads.map(scored, range(len(ids)))), axis=1)
    return means_of_tokens(by_token, real, counted)


def next_token_scores(
    ids: NDArray[np.int64],
    real: NDArray[np.bool_],
    expected: Logits,
    served: Logits,
    counted: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return the means over each text's tokens that two models' predictions have.

    Args:
        ids: the texts' tokens, [batch, tokens].
        real: which of them are no padding, [batch, tokens].
        expected: full precision's log-probabilities.
        served: the candidate's.
        counted: after which of them the prediction counts, [batch, tokens]; all real ones if None.

    Returns:
        [5, batch]: full precision's loss and the candidate's, both in nats a token; the token
        agreement, 0..1; the Kullback-Leibler divergence in nats; the number of tokens.
    """
    return means_of_tokens(_by_token(_following(ids), expected, served), real, counted)


def _following(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the token after each, [batch, tokens]; after the last, 0, which nobody counts."""
    return np.concatenate([ids[:, 1:], np.zeros((len(ids), 1), np.int64)], axis=1)


def _by_token(
    following: NDArray[np.int64], expected: Logits, served: Logits
) -> NDArray[np.float32]:
    """Return both losses, whether both find the same token likeliest, and the divergence.

    Of log-probabilities [batch, tokens, vocabulary]: [4, batch, tokens].
    """
    losses = [
        -np.take_along_axis(side, following[..., None], axis=-1)[..., 0]
        for side in (expected, served)
    ]
    divergence = (np.exp(expected) * (expected - served)).sum(axis=-1)
    return np.stack([*losses, same_token(expected, served), divergence]).astype(np.float32)


def means_of_tokens(
    by_token: NDArray[np.float32],
    real: NDArray[np.bool_],
    counted: NDArray[np.bool_] | None,
) -> NDArray[np.float64]:
    """Return `next_token_scores` of each token's figures, [4, batch, tokens].

    They are both losses, 1 where both find the same token likeliest, and the divergence.
    """
    *losses, same, divergence = by_token
    targets = real[:, 1:] if counted is None else real[:, 1:] & counted[:, :-1]
    predicting = real if counted is None else real & counted
    return np.stack(
        [
            *(_mean(loss[:, :-1], targets) for loss in losses),
            _mean(same, predicting),
            np.maximum(_mean(divergence, predicting), 0),
            predicting.sum(axis=1),
        ]
    )


def transcript_agreement(expected: Logits, served: Logits, real: NDArray[np.bool_]) -> Scores:
    """Return the fraction of real places at which both find the same token likeliest, [batch].

    `real` is [batch, tokens]. Raises `BadInput` for logits that are not finite.
    """
    if not (np.isfinite(expected).all() and np.isfinite(served).all()):
        raise BadInput("the logits hold NaN or infinity: the engine is broken, rebuild it")
    return np.asarray((same_token(expected, served) & real).sum(axis=1) / real.sum(axis=1))


def require_same_shape(expected: Logits, served: Logits) -> None:
    """Raise `BadInput` where the candidate's logits have another shape than full precision's."""
    if expected.shape != served.shape:
        raise BadInput(
            f"the candidate's logits are {served.shape} and full precision's {expected.shape}"
        )


def same_token(expected: Logits, served: Logits) -> NDArray[np.bool_]:
    """Return where both models find the same next token likeliest, [batch, tokens]."""
    return np.asarray(expected.argmax(axis=-1) == served.argmax(axis=-1))


def _mean(values: NDArray[np.generic], real: NDArray[np.bool_]) -> Scores:
    return np.asarray(
        (values.astype(np.float64) * real).sum(axis=1) / np.maximum(real.sum(axis=1), 1)
    )
