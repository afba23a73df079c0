"""A candidate beside full precision on the same texts, token by token, each given the true tokens before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from infra.errors import BadInput
from tasks.models.batches import Batch
from tasks.models.language.decoder import LOGITS
from tasks.models.language.inputs import LanguageInputs
from tasks.records import Payload

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Means over each text's tokens, [texts]."""

    reference_loss: Scores  # negative log-likelihood a token, in nats; perplexity is its exponential
    candidate_loss: Scores
    agreement: Scores  # share of tokens after which both find the same next token likeliest
    divergence: Scores  # Kullback-Leibler, candidate from full precision, in nats


def compare(reference: Engine, candidate: Engine, inputs: LanguageInputs, payloads: Sequence[Payload]) -> Comparison:
    """Both engines on every text. A text of one token predicts nothing: its losses are 0.

    Raises `BadInput` for logits that are not finite, or of another shape than full precision's.
    """
    found = np.zeros((4, len(payloads)))
    for batch in inputs.batches(payloads):
        expected, served = (_log_shares(engine, batch, name) for engine, name in _named(reference, candidate))
        if expected.shape != served.shape:
            raise BadInput(f"the candidate's logits are {served.shape} and full precision's {expected.shape}")
        found[:, batch.cases] = _scores(batch, expected, served)
    return Comparison(*found)


def _named(reference: Engine, candidate: Engine) -> tuple[tuple[Engine, str], tuple[Engine, str]]:
    return (reference, "full precision"), (candidate, "the candidate")


def _log_shares(engine: Engine, batch: Batch, name: str) -> NDArray[np.float32]:
    """Logarithms of the next token's probabilities, [batch, tokens, vocabulary]."""
    logits = engine.run(batch.feeds)[LOGITS]
    if not np.isfinite(logits).all():
        raise BadInput(f"the logits of {name} hold NaN or infinity: the engine is broken, rebuild it")
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)


def _scores(batch: Batch, expected: NDArray[np.float32], served: NDArray[np.float32]) -> NDArray[np.float64]:
    real = np.asarray(batch.mask, bool)
    following = np.asarray(batch.feeds["input_ids"], np.int64)[:, 1:, None]
    losses = [-np.take_along_axis(side[:, :-1], following, axis=-1)[..., 0] for side in (expected, served)]
    agree = expected.argmax(axis=-1) == served.argmax(axis=-1)
    divergence = (np.exp(expected) * (expected - served)).sum(axis=-1)
    return np.stack(
        [*(_mean(loss, real[:, 1:]) for loss in losses), _mean(agree, real), np.maximum(_mean(divergence, real), 0)]
    )


def _mean(values: NDArray[np.generic], real: NDArray[np.bool_]) -> Scores:
    return np.asarray((values.astype(np.float64) * real).sum(axis=1) / np.maximum(real.sum(axis=1), 1))
