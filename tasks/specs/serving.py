"""What a spec says of serving: tiers, and the limits whose breach moves traffic."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from infra.identifiers import ModelName

Name = Annotated[str, Field(min_length=1)]
Higher = Literal["full-precision", "previous"]


class _ServingModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RoutingSpec(_ServingModel):
    """Which requests a higher tier answers; a caller may always wish for it."""

    to: Higher = "full-precision"
    tenants: tuple[Name, ...] = ()
    domains: tuple[Name, ...] = ()
    # Tokens of a text, samples of a recording: numbers of a row of the largest input.
    longer_than: int | None = Field(default=None, ge=1)
    # Share of the requests, those whose answers are least sure, that the higher tier answers again.
    least_confident: float = Field(default=0.0, ge=0, lt=1)
    measure: Literal["margin", "entropy"] = "margin"  # of the output's softmax
    output: str | None = None  # whose scores tell how sure an answer is; left out, the judged one


def _one_in(value: object) -> object:
    """Read "one in 1000000 requests" as 1000000."""
    match = (
        re.fullmatch(r"\s*one in ([0-9_]+) requests\s*", value) if isinstance(value, str) else None
    )
    return int(match[1]) if match else value


class FallbackSpec(_ServingModel):
    """Limits of what the champion answers; when one is broken, another release answers."""

    to: Higher | Literal["core"] = "full-precision"  # core: champion of adapter.core
    latency_ms: float | None = Field(default=None, gt=0)  # an answer that takes longer is late
    late: float = Field(default=0.05, gt=0, lt=1)  # share of answers that may be
    errors: float | None = Field(default=None, gt=0, lt=1)  # share of requests that may fail
    # How close to full precision's answers shadow samples must be on average: 1 is identical.
    fidelity: float | None = Field(default=None, gt=0, lt=1)
    flips: float | None = Field(default=None, gt=0, lt=1)  # share of decisions that may differ
    # Memory of the gateway's process, in MB of 10^6 bytes, that it may hold.
    memory_mb: float | None = Field(default=None, gt=0)
    shadow: float = Field(default=0.05, gt=0, le=1)  # share of requests that are compared
    # Requests between two false fallbacks, at least, on average while every limit is kept.
    false_alarms: Annotated[int, BeforeValidator(_one_in), Field(ge=100, le=10**12)] = 10**8
    # Seconds until the champion may answer again; doubled at each return of the same release.
    back_after_s: float = Field(default=300.0, gt=0)

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        limits = ("latency_ms", "errors", "fidelity", "flips", "memory_mb")
        if all(getattr(self, name) is None for name in limits):
            raise ValueError(f"fallback has no limit: give one of {', '.join(limits)}")
        return self


class DeliverySpec(_ServingModel):
    """How a candidate that passed its gates takes traffic over, step by step, or leaves again."""

    canary: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.05, 0.25)  # shares, after shadow
    sample: float = Field(default=0.1, gt=0, le=1)  # share of requests that both releases answer
    # The candidate against the champion, each held against full precision.
    fidelity_drop: float = Field(default=0.02, gt=0, lt=1)  # mean, at most
    flips: float = Field(default=0.02, gt=0, lt=1)  # further decisions that differ, at most
    errors: float = Field(default=0.05, gt=0, lt=1)  # share of the candidate's answers that fail
    latency_ratio: float = Field(default=1.5, gt=0)  # candidate / champion, median of pairs
    false_verdicts: float = Field(default=0.05, gt=0, lt=1)  # chance of one, over a whole delivery
    step_s: float = Field(default=60.0, ge=0)  # that each step takes at least
    give_up_s: float = Field(default=86_400.0, gt=0)  # after which a step without verdict aborts
    bake_s: float = Field(default=600.0, ge=0)  # in which the new champion may still be rolled back

    @model_validator(mode="after")
    def _climbs(self) -> Self:
        if list(self.canary) != sorted(set(self.canary)):
            raise ValueError("delivery.canary does not climb: give shares such as [0.05, 0.25]")
        return self


class GuardSpec(_ServingModel):
    """What may not pass: what a pattern is found in, or a trusted function or a model blocks."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")
    on: Literal["input", "output"]
    pattern: str | None = Field(default=None, min_length=1)  # a regular expression, searched for
    function: str | None = None  # package.module:name, from a text to whether it is blocked
    # Whose safety decision counts: this model's own, or that of another registered one.
    model: ModelName | None = None
    prompt: str = "{text}"  # what a language model is asked; it blocks where "blocked" comes first
    answer: str = "This cannot be answered."  # what is said instead

    @model_validator(mode="after")
    def _judges_one_way(self) -> Self:
        if sum(way is not None for way in (self.pattern, self.function, self.model)) != 1:
            raise ValueError(f"guard {self.name}: give exactly one of pattern, function and model")
        if "{text}" not in self.prompt:
            raise ValueError(f"guard {self.name}: its prompt has no {{text}}")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(f"guard {self.name}: its pattern is none ({error})") from None
        return self


class ServingSpec(_ServingModel):
    """How the gateway serves a model."""

    routing: RoutingSpec | None = None
    fallback: FallbackSpec | None = None
    delivery: DeliverySpec | None = None
    guards: tuple[GuardSpec, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("serving says nothing: give routing, fallback, delivery or guards")
        return self
