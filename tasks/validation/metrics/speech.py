"""What a speech recognizer's candidate scores on the golden cases, against full precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.error_rates import error_rate, word_error_rate
from tasks.records import GoldenSet
from tasks.validation.metrics.golden import CaseScores


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one model wrote of one recording."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class SpeechOutputs:
    """What both models made of a golden set, in the set's order."""

    agreement: NDArray[np.float64]  # fraction of places with the same next token, [cases]
    reference: Sequence[Transcript]
    candidate: Sequence[Transcript]


def evaluate_speech(golden: GoldenSet, outputs: SpeechOutputs) -> Mapping[str, CaseScores]:
    """Compute every metric that the golden set allows; a metric without a case is absent.

    Of every recording: `agreement`, token by token after full precision's own transcript, and
    `token-error-rate` of the candidate's transcript against full precision's. Of labelled ones:
    `wer-increase`, the candidate's word error rate minus full precision's, and both as
    `wer-reference` and `wer-candidate`. Means are over recordings, not over words.
    """
    everything = np.arange(len(golden.cases))
    labels = {
        place: case.label for place, case in enumerate(golden.cases) if case.label is not None
    }
    both = zip(outputs.reference, outputs.candidate, strict=True)
    tokens = np.array(
        [error_rate(_words(right), _words(written)) for right, written in both], np.float64
    )
    before, after = (
        np.array(
            [word_error_rate(label, side[place].text) for place, label in labels.items()],
            np.float64,
        )
        for side in (outputs.reference, outputs.candidate)
    )
    labelled = np.array(list(labels), np.int64)
    metrics = {
        "agreement": CaseScores(outputs.agreement, everything),
        "token-error-rate": CaseScores(tokens, everything),
        "wer-increase": CaseScores(after - before, labelled),
        "wer-reference": CaseScores(before, labelled),
        "wer-candidate": CaseScores(after, labelled),
    }
    return MappingProxyType(
        {metric: scores for metric, scores in metrics.items() if scores.values.size}
    )


def _words(transcript: Transcript) -> list[str]:
    return [str(token) for token in transcript.ids]
