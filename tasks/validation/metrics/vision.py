"""What an image encoder's candidate scores on the golden cases, against full precision."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from infra.errors import BadInput
from tasks.metrics.embeddings import cosine
from tasks.models.vision.classes import Classes
from tasks.records import GoldenSet
from tasks.validation.metrics.golden import CaseScores, Outputs


def evaluate_vision(
    golden: GoldenSet, reference: Outputs, candidate: Outputs, classes: Classes | None
) -> Mapping[str, CaseScores]:
    """Compute every metric that the golden set allows, of embeddings [cases, width].

    A metric without a case is absent. `cosine` of every case. With classes, `flips` of every case
    (another class is nearest: 1 - top-1 agreement). Of labelled ones `accuracy-drop` (-1, 0, 1),
    zero-shot where classes are texts, and `accuracy-*` of both sides.

    Raises:
        BadInput: Embeddings are not finite or do not fit, or a label is no class.
    """
    everything = np.arange(len(golden.cases))
    metrics = {"cosine": CaseScores(cosine(reference, candidate), everything)}
    if classes is None:
        return MappingProxyType(metrics)
    before, after = classes.nearest(reference, "reference"), classes.nearest(candidate, "candidate")
    metrics["flips"] = CaseScores((before != after).astype(np.float64), everything)
    labelled = np.array(
        [place for place, case in enumerate(golden.cases) if case.label is not None], np.int64
    )
    if not labelled.size:
        return MappingProxyType(metrics)
    names = [golden.cases[place].label or "" for place in labelled]
    right = classes.places(names)
    if (right < 0).any():
        unknown = names[int((right < 0).argmax())]
        raise BadInput(
            f"the golden label {unknown!r} is none of the {len(classes.names)} classes: "
            "add the model again"
        )
    sides = [(nearest[labelled] == right).astype(np.float64) for nearest in (before, after)]
    metrics |= {
        "accuracy-drop": CaseScores(sides[0] - sides[1], labelled),
        "accuracy-reference": CaseScores(sides[0], labelled),
        "accuracy-candidate": CaseScores(sides[1], labelled),
    }
    return MappingProxyType(metrics)
