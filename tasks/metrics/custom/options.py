"""What a built-in measure against labels is told beside outputs and label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.specs.custom import MetricSpec

Outputs = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Options:
    """One metric's options, as `MetricSpec` explains them."""

    output: str | None = None
    roles: Mapping[str, str] | None = None  # boxes, scores and labels -> output
    charset: tuple[str, ...] = ()
    blank: int = 0
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    ignore: int | None = None
    boxes: str = "xyxy"

    def only(self, outputs: Outputs) -> NDArray[np.float64]:
        """Return the output that a measure reads.

        Raises:
            BadInput: where there are several and none is named, or it holds NaN or infinity.
        """
        if self.output is None and len(outputs) != 1:
            raise BadInput(f"name the output to read: there are {', '.join(outputs)}")
        return finite(outputs, self.output or next(iter(outputs)))

    def number(self, label: str) -> int:
        """Return the class that a label names or numbers; raises `BadInput`."""
        if label in self.classes:
            return self.classes.index(label)
        if label.lstrip("-").isdecimal():
            return int(label)
        raise BadInput(f"the label {label[:40]!r} is no class number, and no name in classes")


def options_of(metric: MetricSpec, charset: Sequence[str]) -> Options:
    """Return what a metric's measure is told; the charset was read at registration."""
    return Options(
        output=metric.output,
        roles=None if metric.outputs is None else {str(k): v for k, v in metric.outputs.items()},
        charset=tuple(charset),
        blank=metric.blank,
        classes=metric.classes,
        threshold=metric.threshold,
        ignore=metric.ignore,
        boxes=metric.boxes,
    )


def finite(outputs: Outputs, name: str) -> NDArray[np.float64]:
    """Return an output as float64; raises `BadInput` when it is missing or not finite."""
    if name not in outputs:
        raise BadInput(f"there is no output {name}: there are {', '.join(outputs)}")
    values = np.asarray(outputs[name], np.float64)
    if not np.isfinite(values).all():
        raise BadInput(f"the output {name} holds NaN or infinity: the engine is broken")
    return values


def squeezed(values: NDArray[np.float64], axes: int) -> NDArray[np.float64]:
    """Drop leading axes of size 1 until so many are left."""
    while values.ndim > axes and values.shape[0] == 1:
        values = values[0]
    if values.ndim != axes:
        raise BadInput(f"the output has shape {list(values.shape)}: {axes} axes are needed")
    return values


def characters(charset: Sequence[str], width: int) -> tuple[str, ...]:
    """Return the characters of a head of so many entries, without its blank.

    Where the head has two entries more than the charset, the last is the space, as PaddleOCR's
    recognizers have it.
    """
    if width == len(charset) + 1:
        return tuple(charset)
    if width == len(charset) + 2:
        return (*charset, " ")
    raise BadInput(
        f"the output has {width} entries a step, and the charset {len(charset)} characters: "
        "one for each and a blank are needed"
    )
