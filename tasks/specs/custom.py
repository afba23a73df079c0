"""What a spec says of a model with inputs, outputs and metrics of its own."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tasks.specs.preprocess import FUNCTION
from tasks.specs.tensors import Axis

DTYPES = Literal[
    "float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"
]
DISTANCES: Mapping[str, Literal["higher", "lower"]] = {
    "cosine": "higher",
    "agreement": "higher",
    "iou": "higher",
    "relative-error": "lower",
}
"""Built-in measures of a candidate's outputs against full precision's, and what is better."""
LABELLED: Mapping[str, Literal["higher", "lower"]] = {
    "accuracy": "higher",
    "cer": "lower",
    "wer": "lower",
    "exact-match": "higher",
    "miou": "higher",
    "map": "higher",
    "frame-f1": "higher",
    "token-f1": "higher",
    "absolute-error": "lower",
    "squared-error": "lower",
}
"""Built-in measures of outputs against labels, and what is better."""
UNBOUNDED = frozenset({"absolute-error", "squared-error"})
"""Measures against labels that are no fraction of what is right, or wrong."""
READ_TEXT = frozenset({"cer", "wer", "exact-match"})
"""Measures that need a charset."""
Number = bool | int | float
_RESERVED = re.compile(r".*(-reference|-candidate|flips|perplexity-ratio)$|^(kl|loss.*)$")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _three(value: object) -> object:
    """Read [8, 320, 640], or one number for a dimension that always has it."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value] * 3
    if isinstance(value, list | tuple) and len(value) == 3:
        return dict(zip(("min", "common", "max"), value, strict=True))
    return value


class DimensionSpec(_Part):
    """The sizes that a named dimension may have."""

    min: int = Field(ge=1)
    common: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.common <= self.max:
            raise ValueError("give min, common and max in rising order, such as [8, 320, 640]")
        return self


class TensorSpec(_Part):
    """One input of the graph; what is left out follows from the graph."""

    dtype: DTYPES | None = None
    shape: tuple[Axis, ...] | None = None  # with the batch; a name for a size that differs
    # False where the first axis is no batch, such as steps in time: a request carries it too.
    batch: bool | None = None
    # What the input always is, such as a sample rate: then no request carries it.
    value: Number | tuple[Number, ...] | None = None


class StateSpec(_Part):
    """The output that an input is fed with next, and what it is fed with first."""

    output: str
    initial: Number | tuple[Number, ...] = 0.0  # one for all, or each in row-major order


def _state(value: object) -> object:
    """Read the output's name alone."""
    return {"output": value} if isinstance(value, str) else value


class MetricSpec(_Part):
    """One figure that a candidate is judged by, one value a golden case."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")
    measure: str | None = None  # a built-in one; the name itself where it is left out
    # package.module:name
    function: str | None = Field(default=None, pattern=FUNCTION)
    time_limit: float = Field(default=600.0, gt=0)  # seconds that a function has for all cases
    output: str | None = None  # that a built-in measure reads; every output, or the only one
    direction: Literal["higher", "lower"] | None = None  # which is better
    budget: float
    # Characters of a sequence head in its order: themselves, metadata:KEY of the graph, where each
    # has a line, or file:NAME beside the spec.
    charset: str | None = None
    blank: int = Field(default=0, ge=0)  # the head's entry that is no character
    classes: tuple[str, ...] = ()  # names of class numbers, where labels are names
    threshold: float = 0.5  # above which a probability counts
    ignore: int | None = None  # the class number in labels that does not count
    boxes: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    outputs: Mapping[Literal["boxes", "scores", "labels"], str] | None = None  # of a detector

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.function is None and self.kind not in {**DISTANCES, **LABELLED}:
            names = ", ".join(sorted({**DISTANCES, **LABELLED}))
            raise ValueError(
                f"the metric {self.name} has no function, and {self.kind} is no built-in measure: "
                f"these are {names}"
            )
        if self.function is not None and self.measure is not None:
            raise ValueError(f"the metric {self.name} has a function and a measure: give one")
        if self.function is not None and self.direction is None:
            raise ValueError(f"the metric {self.name} needs a direction: higher or lower is better")
        if self.function is None and self.kind in READ_TEXT and self.charset is None:
            raise ValueError(
                f"the metric {self.name} needs a charset: characters, metadata:KEY or file:NAME"
            )
        if self.outputs is not None and not {"boxes", "scores"} <= set(self.outputs):
            raise ValueError(f"the metric {self.name} needs outputs.boxes and outputs.scores")
        if self.labelled and self.direction is not None:
            raise ValueError(f"the metric {self.name} has a direction of its own: leave it out")
        if _RESERVED.match(self.name):
            raise ValueError(f"the name {self.name} has a meaning of its own: give it another")
        return self

    @property
    def kind(self) -> str:
        """Return the built-in measure's name."""
        return self.measure or self.name

    @property
    def higher_is_better(self) -> bool:
        """Return whether larger values are better."""
        known = {**DISTANCES, **LABELLED}.get(self.kind, "higher")
        return (self.direction or known) == "higher"

    @property
    def labelled(self) -> bool:
        """Return whether a built-in measure holds both sides against a label."""
        return self.function is None and self.kind in LABELLED

    @property
    def scores_answers(self) -> bool:
        """Return whether it says what fraction of an answer is right, as a control needs."""
        return self.labelled and self.kind not in UNBOUNDED

    @property
    def gate(self) -> str:
        """Return the name in budgets, gates and reports.

        A labelled measure is judged by what the candidate loses against full precision.
        """
        if not self.labelled:
            return self.name
        return f"{self.name}-{'drop' if self.higher_is_better else 'increase'}"

    @property
    def rule(self) -> dict[str, object]:
        """Return the budget as an entry of budgets.quality."""
        bound = "at_least" if self.higher_is_better and not self.labelled else "at_most"
        return {"metric": self.gate, bound: self.budget}


States = Mapping[str, Annotated[StateSpec, BeforeValidator(_state)]]
Dimensions = Mapping[str, Annotated[DimensionSpec, BeforeValidator(_three)]]


def with_rules(document: Any) -> Any:
    """Return a spec's fields with each metric's budget among budgets.quality."""
    if not isinstance(document, Mapping) or not document.get("metrics"):
        return document
    metrics = [MetricSpec.model_validate(entry) for entry in document["metrics"]]
    budgets = dict(document.get("budgets") or {})
    given = list(budgets.get("quality") or ())
    budgets["quality"] = [*given, *(m.rule for m in metrics if m.rule not in given)]
    return {**document, "budgets": budgets}
