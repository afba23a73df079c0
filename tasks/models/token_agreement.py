"""Whether a candidate writes what full precision writes, token by token.

One function serves every model that writes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.models.decoding.comparison import compare
from tasks.models.inputs import Inputs, language_inputs
from tasks.models.speech.comparison import compare_transcripts
from tasks.models.speech.inputs import SpeechInputs
from tasks.records import Payload


def token_agreement(
    reference: Engine, candidate: Engine, inputs: Inputs, payloads: Sequence[Payload]
) -> NDArray[np.float64]:
    """Return the fraction of tokens after which both find the same next one likeliest, [payloads].

    A text is its own teacher; of a recording, full precision's transcript is.

    Raises:
        BadInput: for logits that are not finite, or of another shape than full precision's.
    """
    if isinstance(inputs, SpeechInputs):
        return compare_transcripts(reference, candidate, inputs, payloads)
    return compare(reference, candidate, language_inputs(inputs), payloads).agreement
