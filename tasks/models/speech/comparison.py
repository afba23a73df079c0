"""A candidate beside full precision on the same recordings: token by token, and transcript by transcript."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from infra.errors import BadInput
from tasks.models.speech.inputs import SpeechInputs
from tasks.records import Payload

Scores = NDArray[np.float64]


def agreement(
    reference: Engine, candidate: Engine, inputs: SpeechInputs, payloads: Sequence[Payload]
) -> Scores:
    """Share of a transcript's places at which both find the same next token likeliest, given full precision's before.

    The end of the transcript is one of the places, the inside of the prompt is none. [payloads], 0..1. Raises
    `BadInput` for logits that are not finite, or of another shape than full precision's.
    """
    found = np.zeros(len(payloads))
    for batch in inputs.batches(payloads):
        expected, served = (
            engine.run(batch.feeds)[inputs.output] for engine in (reference, candidate)
        )
        if expected.shape != served.shape:
            raise BadInput(
                f"the candidate's logits are {served.shape} and full precision's {expected.shape}"
            )
        if not (np.isfinite(expected).all() and np.isfinite(served).all()):
            raise BadInput("the logits hold NaN or infinity: the engine is broken, rebuild it")
        asked = np.asarray(batch.mask, bool)[:, len(inputs.hearing.prompt) - 1 :]
        same = (expected.argmax(axis=-1) == served.argmax(axis=-1))[
            :, len(inputs.hearing.prompt) - 1 :
        ]
        found[batch.cases] = (same & asked).sum(axis=1) / asked.sum(axis=1)
    return found


def word_error_rate(right: str, given: str) -> float:
    """Words to insert, delete and replace, over the right text's words (torchmetrics); 0 is right, it may exceed 1.

    Case and punctuation do not count: both are normalised as Whisper's authors do (arXiv 2212.04356, appendix C).
    """
    return error_rate(*(_normaliser()(text).split() for text in (right, given)))


def error_rate(right: Sequence[str], given: Sequence[str]) -> float:
    """Edit distance over the right sequence's length; where that is 0, the number that was given."""
    from torchmetrics.functional.text import word_error_rate

    if not right:
        return float(len(given))
    return float(word_error_rate([" ".join(given)], [" ".join(right)]))


@cache
def _normaliser() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    normaliser: Callable[[str], str] = BasicTextNormalizer()
    return normaliser
