"""What a spec says of live traffic: its window, sets of it, and when the loop acts on it."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tasks.specs.form import share_or_names


class _DriftModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WindowSpec(_DriftModel):
    """How live traffic is sampled."""

    hours: int = Field(default=24, ge=1)  # the current window ends with the newest request
    minimum_rows: int = Field(default=64, ge=1)  # fewer distinct requests: inconclusive
    sample: int = Field(default=256, ge=8)  # requests kept for drift and calibration
    tenant_share: float = Field(default=0.5, gt=0, le=1)  # of the sample, at most, for one tenant
    # What the input detector compares with: the champion's calibration set, or the same hours of
    # the weeks before.
    reference: Literal["champion", "same-hour-of-week"] = "champion"
    weeks: int = Field(default=4, ge=1, le=52)  # so many weeks back, for same-hour-of-week


class CalibrationSpec(_DriftModel):
    """How a calibration set is chosen from the window, and what it may do to a scale."""

    size: int | None = Field(
        default=None, ge=8
    )  # requests; as many as window.sample when it is left out
    selection: Literal["random", "cover"] = (
        "random"  # cover: few requests that reach and fill every site's range
    )
    # Of a checkpoint: linear layers that stay in floating point, by an expression for their names
    # (down_proj), or how many of their weights (10%): those that lose most.
    keep: Annotated[str, AfterValidator(share_or_names)] | None = None
    anchor_share: float = Field(default=0.25, ge=0, le=1)  # of the set, from the calibration pool
    guardrails: tuple[
        str, ...
    ] = ()  # domains of the calibration pool that are always in the set, whole
    near_duplicates: float = Field(
        default=0.9, gt=0, le=1
    )  # similarity from which texts count as one; 1: never
    quarantine: bool = True  # set requests aside that alone reach far beyond all others
    # Share of the traffic that has to reach a magnitude before a range follows; 0: any.
    least_support: float = Field(default=0.1, ge=0, le=0.25)
    largest_scale_change: float = Field(
        default=16.0, gt=1
    )  # that one recalibration makes to an activation's amax
    privacy: Literal["patterns", "library"] = (
        "library"  # what redacts the texts that are kept in samples
    )


def _one_in(value: object) -> object:
    """Read "one in 1000 windows" as 1000."""
    match = (
        re.fullmatch(r"\s*one in ([0-9_]+) windows\s*", value) if isinstance(value, str) else None
    )
    return int(match[1]) if match else value


class ConfirmSpec(_DriftModel):
    """In how many of the last windows a detector must have degraded before the loop acts.

    Safety needs no confirmation.
    """

    windows: int = Field(default=1, ge=1)
    of: int = Field(default=1, ge=1, le=100)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.windows > self.of:
            raise ValueError(
                f"{self.windows} of {self.of} windows can never be: windows must not exceed of"
            )
        return self


class BuildsSpec(_DriftModel):
    """How many rebuilds the loop may start by itself; safety is exempt."""

    at_most: int = Field(default=8, ge=0)
    days: float = Field(default=7.0, gt=0)  # of traffic time


class DriftSpec(_DriftModel):
    """How sure the loop must be before it acts, and what keeps it from thrashing."""

    # Windows between two false alarms of range, fidelity, safety and control together, at least, on
    # average.
    false_alarms: Annotated[int, BeforeValidator(_one_in), Field(ge=10, le=10_000_000)] = 1000
    recover: float = Field(
        default=0.5, gt=0, le=1
    )  # share of what set an alarm off, to which it must fall to end
    confirm: ConfirmSpec = ConfirmSpec()
    cooldown_windows: int = Field(
        default=1, ge=0
    )  # windows after a build in which no second one is started
    builds: BuildsSpec = BuildsSpec()
