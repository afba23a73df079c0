"""Full precision on labelled requests like the window's: what the control judges, for speech and image encoders."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.models.catalog import RegisteredModel
from tasks.models.inputs import run_all, speech_inputs
from tasks.models.speech.comparison import word_error_rate
from tasks.records import Payload, Request

ENOUGH = 20
"""So many labelled live requests speak for the window; with fewer, golden cases of its domains and languages do."""


def transcribed(model: RegisteredModel, requests: Sequence[Request], groups: Sequence[str]) -> NDArray[np.float64]:
    """Word accuracy, 1 - the word error rate and at least 0, of each labelled recording."""
    inputs, labelled = speech_inputs(model.inputs), _labelled(model, requests, groups)
    written = inputs.expected([payload for payload, _ in labelled])
    pairs = zip(labelled, written, strict=True)
    return np.array([max(0.0, 1.0 - word_error_rate(label, inputs.decode(ids))) for (_, label), ids in pairs])


def recognised(model: RegisteredModel, requests: Sequence[Request], groups: Sequence[str]) -> NDArray[np.float64]:
    """1.0 where an image lies nearest to its label's class, else 0.0; labels that are no class are left out."""
    classes = model.classes
    if classes is None:
        return np.zeros(0)
    known = [(payload, label) for payload, label in _labelled(model, requests, groups) if label in classes.names]
    if not known:
        return np.zeros(0)
    outputs = run_all(model.reference, model.inputs, [payload for payload, _ in known])
    right = classes.places([label for _, label in known])
    return np.asarray(classes.nearest(outputs, "labelled") == right, np.float64)


def _labelled(model: RegisteredModel, requests: Sequence[Request], groups: Sequence[str]) -> list[tuple[Payload, str]]:
    live = [(one.payload, one.label) for one in requests if one.label is not None]
    return live if len(live) >= ENOUGH else list(_golden(model, groups))


def _golden(model: RegisteredModel, groups: Sequence[str]) -> Iterator[tuple[Payload, str]]:
    for case in model.golden.cases:
        if case.label is not None and {f"domain={case.domain}", f"language={case.language}"} <= set(groups):
            yield case.payload, case.label
