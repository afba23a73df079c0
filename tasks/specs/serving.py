"""What a spec says of serving: who is sent to a higher tier, and by which rule."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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


class ServingSpec(_ServingModel):
    """How the gateway serves a model."""

    routing: RoutingSpec | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("serving says nothing: give routing, or leave it out")
        return self
