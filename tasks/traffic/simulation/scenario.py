"""A scenario file: which traffic is normal, what shifts, and how each shift comes and goes.

It is checked once, here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import BadInput
from infra.yaml_text import read_yaml

Days = Annotated[float, Field(ge=0, le=3650)]
Share = Annotated[float, Field(ge=0, le=1)]
Numbers = NDArray[np.float64]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class _ScenarioModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _weights(value: Mapping[str, float]) -> Mapping[str, float]:
    if value and (min(value.values()) < 0 or sum(value.values()) <= 0):
        raise ValueError("weights are 0 or more, and one is more than 0")
    return value


Weights = Annotated[Mapping[str, float], AfterValidator(_weights)]


class Course(_ScenarioModel):
    """How strong a shift is over time, from 0 (no trace of it) to `strength`.

    All times are days from the start. gradual: rises in a line from `start` to `end`, and stays.
    sudden: all of it from `start` to `end`. recurring: all of it for the first `duty` of each
    `period`. seasonal: (1 - cos(2 pi (t - start) / period)) / 2 of it.
    """

    shape: Literal["gradual", "sudden", "recurring", "seasonal"]
    start: Days = 0
    end: Days | None = None  # of a sudden, recurring or seasonal shift: None lasts for good
    period: Annotated[float, Field(gt=0, le=3650)] = 1
    duty: Annotated[float, Field(gt=0, le=1)] = 0.5
    strength: Annotated[float, Field(gt=0, le=1)] = 1

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.shape == "gradual" and self.end is None:
            raise ValueError("a gradual shift needs an end: the day on which all of it is there")
        if self.end is not None and self.end <= self.start:
            raise ValueError("end must come after start")
        return self

    def at(self, days: Numbers) -> Numbers:
        """Return the strength at each time, [n] -> [n] between 0 and `strength`."""
        since = days - self.start
        if self.shape == "gradual":
            return self.strength * np.clip(since / ((self.end or 0) - self.start), 0, 1)
        phase = np.mod(since, self.period) / self.period
        full = {
            "sudden": np.ones_like(days),
            "recurring": (phase < self.duty).astype(np.float64),
            "seasonal": (1 - np.cos(2 * np.pi * phase)) / 2,
        }[self.shape]
        inside = (since >= 0) & (days < (np.inf if self.end is None else self.end))
        strength: Numbers = self.strength * full * inside
        return strength


class _Shift(_ScenarioModel):
    when: Course


class Mix(_Shift):
    """Other domains and languages come.

    At full strength every request is drawn by these weights.
    """

    kind: Literal["mix"]
    domains: Weights = {}
    languages: Weights = {}


class NewLanguage(_Shift):
    """A language that normal traffic has not: it is left out of the base mix."""

    kind: Literal["new-language"]
    language: Name


class Jargon(_Shift):
    """Words that no user said before replace this share of a text's words."""

    kind: Literal["jargon"]
    words: Annotated[
        tuple[Name, ...], Field(max_length=10_000)
    ] = ()  # none: `vocabulary` made-up ones
    vocabulary: Annotated[int, Field(ge=1, le=100_000)] = 200
    share: Share = 0.3


class LengthGrowth(_Shift):
    """Texts grow to this many times their length.

    They grow by further texts of the same domain and language.
    """

    kind: Literal["length-growth"]
    factor: Annotated[float, Field(gt=1, le=100)]


class TenantBurst(_Shift):
    """One tenant sends this share of all requests."""

    kind: Literal["tenant-burst"]
    tenant: Name = "burst"
    share: Share = 0.6


class Poisoning(_Shift):
    """One tenant sends this share of all requests, with extreme inputs.

    They are tensors times `magnitude`, or one rare word repeated `magnitude` times.
    """

    kind: Literal["poisoning"]
    tenant: Name = "attacker"
    share: Share = 0.05
    magnitude: Annotated[float, Field(gt=1, le=1e6)] = 1000


class Exposure(_Shift):
    """Tensors times `factor` at full strength, times factor ** strength before."""

    kind: Literal["exposure"]
    factor: Annotated[float, Field(gt=0, le=1e6)]


class Gain(_Shift):
    """Contrast: the distance of each value from its tensor's mean times factor ** strength."""

    kind: Literal["gain"]
    factor: Annotated[float, Field(gt=0, le=1e6)]


class Noise(_Shift):
    """Gaussian noise of this standard deviation at full strength."""

    kind: Literal["noise"]
    deviation: Annotated[float, Field(gt=0, le=1e6)]


class SensorOffset(_Shift):
    """This much added to every value at full strength."""

    kind: Literal["sensor-offset"]
    offset: Annotated[float, Field(ge=-1e6, le=1e6)]


OfText = Jargon | LengthGrowth
OfTensors = Exposure | Gain | Noise | SensorOffset
Shift = Annotated[
    Mix | NewLanguage | TenantBurst | Poisoning | OfText | OfTensors,
    Field(discriminator="kind"),
]


class Base(_ScenarioModel):
    """Traffic before any shift.

    Nothing said is everything that the corpus holds, as often as it does.
    """

    domains: Weights = {}
    languages: Weights = {}
    tenants: Annotated[int, Field(ge=1, le=10_000)] = 5  # as busy as 1, 1/2, 1/3, ...
    labelled: Share = 1  # of the labels that the corpus has, so many are known


class Scenario(_ScenarioModel):
    """One file."""

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z][a-z0-9-]{1,62}$")
    about: str = ""
    days: Annotated[float, Field(gt=0, le=3650)] = 7
    rate: Annotated[float, Field(gt=0, le=1e7)] = 64  # requests an hour
    base: Base = Base()
    shifts: tuple[Shift, ...] = ()


def parse_scenario(text: str, *, where: str) -> Scenario:
    """Read a scenario from YAML.

    Raises:
        BadInput: A field is wrong; it names each, what was found and what is allowed.
    """
    document = read_yaml(text, where=where)
    if not isinstance(document, Mapping):
        raise BadInput(
            f"{where} holds {type(document).__name__}, not fields: see examples/scenarios/null.yaml"
        )
    try:
        return Scenario.model_validate(document)
    except ValidationError as error:
        raise BadInput(f"{where}: " + "; ".join(map(_sentence, error.errors()))) from error


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        BadInput: The file is missing, not UTF-8 or wrong.
    """
    try:
        return parse_scenario(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"the scenario {path} cannot be read ({error}): give the path of a UTF-8 YAML file"
        ) from error


def _sentence(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"]) or "the scenario"
    if error["type"] == "extra_forbidden":
        return f"{path} is unknown"
    if error["type"] == "missing":
        return f"{path} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{path} is {repr(error['input'])[:80]}: {message[:1].lower()}{message[1:]}"
