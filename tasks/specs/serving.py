"""What a spec says of serving: tiers, and the limits whose breach moves traffic."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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

    to: Higher = "full-precision"
    latency_ms: float | None = Field(default=None, gt=0)  # an answer that takes longer is late
    late: float = Field(default=0.05, gt=0, lt=1)  # share of answers that may be
    errors: float | None = Field(default=None, gt=0, lt=1)  # share of requests that may fail
    # How close to full precision's answers shadow samples must be on average: 1 is identical.
    fidelity: float | None = Field(default=None, gt=0, lt=1)
    flips: float | None = Field(default=None, gt=0, lt=1)  # share of decisions that may differ
    shadow: float = Field(default=0.05, gt=0, le=1)  # share of requests that are compared
    # Requests between two false fallbacks, at least, on average while every limit is kept.
    false_alarms: Annotated[int, BeforeValidator(_one_in), Field(ge=100, le=10**12)] = 10**8
    # Seconds until the champion may answer again; doubled at each return of the same release.
    back_after_s: float = Field(default=300.0, gt=0)

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        limits = ("latency_ms", "errors", "fidelity", "flips")
        if all(getattr(self, name) is None for name in limits):
            raise ValueError(f"fallback has no limit: give one of {', '.join(limits)}")
        return self


class ServingSpec(_ServingModel):
    """How the gateway serves a model."""

    routing: RoutingSpec | None = None
    fallback: FallbackSpec | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("serving says nothing: give routing or fallback, or leave it out")
        return self
