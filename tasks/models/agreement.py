"""Token by token: whether a candidate writes what full precision writes, for every kind of model that writes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.models.inputs import Inputs, language_inputs
from tasks.models.language.comparison import compare
from tasks.models.speech.comparison import agreement
from tasks.models.speech.inputs import SpeechInputs
from tasks.records import Payload


def token_agreement(
    reference: Engine, candidate: Engine, inputs: Inputs, payloads: Sequence[Payload]
) -> NDArray[np.float64]:
    """The share of each payload's tokens after which both find the same next one likeliest, [payloads].

    A text is its own teacher; of a recording, full precision's transcript is. Raises `BadInput` for logits that are not
    finite, or of another shape than full precision's.
    """
    if isinstance(inputs, SpeechInputs):
        return agreement(reference, candidate, inputs, payloads)
    return compare(reference, candidate, language_inputs(inputs), payloads).agreement
