"""A candidate beside full precision on the same recordings, token by token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.metrics.next_token import require_same_shape, transcript_agreement
from tasks.models.speech.inputs import SpeechInputs
from tasks.records import Payload


def compare_transcripts(
    reference: Engine, candidate: Engine, inputs: SpeechInputs, payloads: Sequence[Payload]
) -> NDArray[np.float64]:
    """Return on which fraction of a transcript's places both find the same next token likeliest.

    Each place is given full precision's transcript before it. The end of the transcript is one of
    the places, the inside of the prompt is none.

    Returns:
        [payloads], 0..1.

    Raises:
        BadInput: for logits that are not finite, or of another shape than full precision's.
    """
    agreement = np.zeros(len(payloads))
    first = len(inputs.hearing.prompt) - 1
    for batch in inputs.batches(payloads):
        expected, served = (
            engine.run(batch.feeds)[inputs.output] for engine in (reference, candidate)
        )
        require_same_shape(expected, served)
        real = np.asarray(batch.mask, bool)[:, first:]
        agreement[batch.cases] = transcript_agreement(expected[:, first:], served[:, first:], real)
    return agreement
