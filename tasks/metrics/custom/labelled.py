"""Scores of one case's outputs against its label, by well-kept libraries.

Each takes outputs by name, the label and the metric's options, and returns one number. Source of
CTC's greedy decoding: Graves et al. (2006), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.metrics.custom.detection import average_precision
from tasks.metrics.custom.labels import read_array, read_fields
from tasks.metrics.custom.options import Options, Outputs, characters, squeezed
from tasks.metrics.error_rates import word_error_rate
from tasks.specs.custom import READ_TEXT

if TYPE_CHECKING:
    import torch


def read_text(outputs: Outputs, options: Options) -> str:
    """Return what a sequence head wrote: scores [steps, blank + characters], greedily decoded."""
    scores = squeezed(options.only(outputs), 2)
    written = characters(options.charset, scores.shape[1])
    letters = (*written[: options.blank], "", *written[options.blank :])
    best = scores.argmax(axis=1)
    kept = best[np.insert(best[1:] != best[:-1], 0, True)] if best.size else best
    return "".join(letters[place] for place in kept.tolist())


def character_error_rate(outputs: Outputs, label: str, options: Options) -> float:
    """Return the edits from the text to the label, over the label's characters (torchmetrics)."""
    from torchmetrics.functional.text import char_error_rate

    written = read_text(outputs, options)
    if not label:
        return float(len(written))
    return float(char_error_rate([written], [label]))


def text_word_error_rate(outputs: Outputs, label: str, options: Options) -> float:
    """Return the word error rate of the text."""
    return word_error_rate(label, read_text(outputs, options))


def exact_match(outputs: Outputs, label: str, options: Options) -> float:
    """Return 1.0 where the text is the label."""
    return float(read_text(outputs, options) == label)


def accuracy(outputs: Outputs, label: str, options: Options) -> float:
    """Return 1.0 where the largest entry is the label's class."""
    return float(options.only(outputs).ravel().argmax() == options.number(label))


def mean_iou(outputs: Outputs, label: str, options: Options) -> float:
    """Return the mean intersection over union of the label's classes (torchmetrics).

    Outputs are scores [classes, height, width]; one channel is a probability, and its only class is
    what lies above the threshold. The label is a mask [height, width].
    """
    from torchmetrics.functional.classification import binary_jaccard_index
    from torchmetrics.functional.segmentation import mean_iou as of_library

    scores, mask = options.only(outputs), read_array(label)
    scores = scores[None] if scores.ndim == 2 else squeezed(scores, 3)
    if scores.shape[1:] != mask.shape:
        raise BadInput(
            f"the output has shape {list(scores.shape)}, and the label's mask {list(mask.shape)}"
        )
    if len(scores) == 1:
        shown, right = scores[0] > options.threshold, mask > 0
        if not shown.any() and not right.any():
            return 1.0
        return float(binary_jaccard_index(_tensor(shown), _tensor(right)))
    kept = mask != options.ignore
    found = scores.argmax(axis=0)[kept]
    value = of_library(
        _tensor(found)[None], _tensor(mask[kept])[None], len(scores), input_format="index"
    )
    return float(value.mean())


def frame_f1(outputs: Outputs, label: str, options: Options) -> float:
    """Return F1 over frames and events together (torchmetrics).

    Outputs are probabilities [frames, events], the label 0 or 1 of the same shape.
    """
    from torchmetrics.functional.classification import binary_f1_score

    scores, events = options.only(outputs), read_array(label)
    scores = squeezed(scores, events.ndim)
    if scores.shape != events.shape:
        raise BadInput(
            f"the output has shape {list(scores.shape)}, and the label {list(events.shape)}"
        )
    shown, right = scores > options.threshold, events > 0
    if not shown.any() and not right.any():
        return 1.0
    return float(binary_f1_score(_tensor(shown.ravel()), _tensor(right.ravel())))


def token_f1(outputs: Outputs, label: str, options: Options) -> float:
    """Return macro F1 of the classes of tokens (torchmetrics).

    Outputs are scores [tokens, classes], the label a JSON list of class numbers; `ignore` is the
    number of tokens that do not count.
    """
    from torchmetrics.functional.classification import multiclass_f1_score

    scores, right = squeezed(options.only(outputs), 2), read_array(label).astype(np.int64)
    if right.ndim != 1 or len(right) > len(scores):
        raise BadInput(f"the label has {right.size} tokens, and the output {len(scores)}")
    classes = scores[: len(right)].argmax(axis=1)
    value = multiclass_f1_score(
        _tensor(classes),
        _tensor(right),
        num_classes=scores.shape[1],
        average="macro",
        ignore_index=options.ignore,
    )
    return float(value)


def absolute_error(outputs: Outputs, label: str, options: Options) -> float:
    """Return the mean absolute error against a number, or numbers."""
    return float(np.abs(_difference(outputs, label, options)).mean())


def squared_error(outputs: Outputs, label: str, options: Options) -> float:
    """Return the mean squared error against a number, or numbers."""
    return float(np.square(_difference(outputs, label, options)).mean())


Measure = Callable[[Outputs, str, Options], float]
MEASURES: Mapping[str, Measure] = {
    "accuracy": accuracy,
    "cer": character_error_rate,
    "wer": text_word_error_rate,
    "exact-match": exact_match,
    "miou": mean_iou,
    "map": average_precision,
    "frame-f1": frame_f1,
    "token-f1": token_f1,
    "absolute-error": absolute_error,
    "squared-error": squared_error,
}
"""Which is better is in `tasks.specs.custom.LABELLED`."""


def read_class(outputs: Outputs, options: Options) -> str:
    """Return the class of the largest entry: its name where the metric has names, or its number."""
    place = int(options.only(outputs).ravel().argmax())
    return options.classes[place] if place < len(options.classes) else str(place)


READERS: Mapping[str, Callable[[Outputs, Options], str]] = {
    "accuracy": read_class,
    **dict.fromkeys(READ_TEXT, read_text),
}
"""What a case's outputs say, of measures whose answer people can read."""


def can_read(kind: str, label: str, options: Options) -> bool:
    """Return whether a label is one that a measure can hold an answer against."""
    if kind in READ_TEXT:
        return bool(label)
    readers: Mapping[str, Callable[[str], object]] = {
        "accuracy": options.number,
        "map": read_fields,
    }
    try:
        readers.get(kind, read_array)(label)
    except BadInput:
        return False
    return True


def _difference(outputs: Outputs, label: str, options: Options) -> NDArray[np.float64]:
    values, right = options.only(outputs), read_array(label)
    if values.size != right.size:
        raise BadInput(f"the output has {values.size} numbers, and the label {right.size}")
    return values.ravel() - right.ravel()


def _tensor(values: NDArray[np.generic]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values).astype(np.int64))
