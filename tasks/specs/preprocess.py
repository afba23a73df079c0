"""What a spec says of the way from a request as a user sent it to the graph's inputs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Numbers = float | tuple[float, ...]
FUNCTION = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
"""How a function of a user's own is named: package.module:name."""


class _StepModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resize(_StepModel):
    """Scale an image; a side that is left out keeps the ratio."""

    step: Literal["resize"]
    height: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)
    shortest: int | None = Field(default=None, ge=1)  # side, where neither is given
    multiple: int = Field(default=1, ge=1)  # that both sides are rounded to

    @model_validator(mode="after")
    def _says_how_large(self) -> Self:
        if self.shortest is not None and (self.height or self.width):
            raise ValueError("resize takes height, width or both, or shortest")
        return self


class Pad(_StepModel):
    """Fill an image on the right and below, or a sound at its end."""

    step: Literal["pad"]
    height: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)
    length: int | None = Field(default=None, ge=1)  # samples of a sound
    multiple: int = Field(default=1, ge=1)  # that sizes not given are filled up to
    value: float = 0.0


class Normalise(_StepModel):
    """Compute (x * scale - mean) / deviation; an image becomes [channels, height, width]."""

    step: Literal["normalise"]
    scale: float = 1 / 255
    mean: Numbers = 0.0
    deviation: Numbers = 1.0
    layout: Literal["chw", "hwc"] = "chw"


class Tokenize(_StepModel):
    """Read a text with the spec's tokenizer; inputs are named as the graph has them."""

    step: Literal["tokenize"]
    ids: str = "input_ids"
    mask: str | None = "attention_mask"
    length: int | None = Field(default=None, ge=1)  # tokens that shorter texts are filled up to


class LogMel(_StepModel):
    """Compute log-mel bands of a sound, as Whisper's authors do: [bands, frames]."""

    step: Literal["log-mel"]
    rate: int = Field(default=16_000, ge=1)  # samples a second
    bands: int = Field(default=80, ge=1)
    window: int = Field(default=400, ge=1)  # samples
    hop: int = Field(default=160, ge=1)  # samples


class Frames(_StepModel):
    """Cut a sound into chunks [chunks, length], for a graph that streams; the last ends in zeros.

    Where chunks overlap, the first begins with as many zeros.
    """

    step: Literal["frames"]
    length: int = Field(ge=1)  # samples
    hop: int | None = Field(default=None, ge=1)  # samples from one chunk to the next; the length

    @model_validator(mode="after")
    def _leaves_nothing_out(self) -> Self:
        if self.hop is not None and self.hop > self.length:
            raise ValueError("frames would leave samples out: give a hop of at most the length")
        return self


class OwnStep(_StepModel):
    """Call a function of a trusted module on what the step before gave."""

    step: Literal["function"]
    function: str = Field(pattern=FUNCTION)


Step = Annotated[
    Resize | Pad | Normalise | Tokenize | LogMel | Frames | OwnStep, Field(discriminator="step")
]


class PreprocessSpec(_StepModel):
    """What a user sends, and the steps that make the graph's inputs of it."""

    reads: Literal["image", "audio", "text"]
    channels: Literal["RGB", "BGR", "L"] = "RGB"  # of an image, in this order
    to: str | None = None  # the graph's input; the only one where it is left out
    steps: tuple[Step, ...] = Field(min_length=1)
