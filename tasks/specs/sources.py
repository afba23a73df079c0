"""Where a model's live traffic is read from on a schedule: one entry of `sources` in its spec."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from infra.errors import BadInput

SourceFormat = Literal[
    "requant-parquet",
    "jsonl",
    "kserve",
    "triton",
    "openai-chat",
    "mlflow-traces",
]
SETTLED_S = 60.0
"""Seconds without a change after which a file of a folder counts as written."""
TIMELESS = ("kserve", "triton", "openai-chat")
"""Formats whose records may name no date."""
_BUCKET = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,62}(/.*)?")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def known_zone(name: str) -> str:
    """Return the name of a time zone itself; raise `ValueError` where nobody knows it."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):  # an OSError: the name is a folder's
        near = get_close_matches(name, available_timezones(), n=1)
        hint = f", such as {near[0]}" if near else ", such as Europe/Berlin"
        raise ValueError(
            f"{name!r} is no time zone: write one of the IANA database{hint}"
        ) from None
    return name


def _place(path: str) -> str:
    if path.startswith("s3:"):
        if not _BUCKET.fullmatch(path):
            raise ValueError("names no bucket: write s3://bucket/prefix, without credentials")
    elif _SCHEME.match(path):
        raise ValueError("is neither a folder nor s3://bucket/prefix")
    return path


class SourceSpec(BaseModel):
    """A folder, an S3 prefix or an MLflow experiment into which serving writes traffic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A folder, relative to the spec, or s3://bucket/prefix.
    path: Annotated[str, Field(min_length=1), AfterValidator(_place)] | None = None
    # Its traces are read from the MLflow server of the settings.
    experiment: str | None = Field(default=None, min_length=1)
    # What its records are kept under; left out, the last part of the path or the experiment.
    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    format: SourceFormat | None = None  # what wrote the files; left out, their extension tells
    first_at: AwareDatetime | None = None  # of the first record, where the format knows no date
    # Where the clock stood whose times name no zone; left out, such times are refused.
    timezone: Annotated[str, AfterValidator(known_zone)] | None = None
    # Seconds that a file must have been left alone; left out, SETTLED_S in a folder, 0 in a bucket.
    settle: float | None = Field(default=None, ge=0, le=7 * 86_400)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.experiment is None):
            raise ValueError("give exactly one of path and experiment")
        if self.experiment is not None and (
            self.format or self.first_at or self.timezone or self.settle is not None
        ):
            raise ValueError(
                "an experiment takes no format, first_at, timezone or settle: traces have theirs"
            )
        if self.format == "triton" and self.first_at is None:
            raise ValueError(
                "format triton needs first_at, when its first trace was taken: its clock names no "
                "date"
            )
        if self.first_at is not None and self.format not in TIMELESS:
            raise ValueError(f"first_at is for formats without dates: {', '.join(TIMELESS)}")
        if not self.slug:
            raise ValueError("its path gives no name of small letters and digits: give it a name")
        return self

    @property
    def slug(self) -> str:
        """Return its name, given or made of the last part of its path or experiment."""
        if self.name is not None:
            return self.name
        last = (self.path or self.experiment or "").rstrip("/").rpartition("/")[2]
        return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:63].rstrip("-")

    @property
    def in_bucket(self) -> bool:
        """Return whether its files are objects of an S3 bucket."""
        return self.path is not None and self.path.startswith("s3:")

    @property
    def settled_after(self) -> float:
        """Return the seconds without a change after which a file is read.

        An object is whole at once.
        """
        if self.settle is not None:
            return self.settle
        return 0.0 if self.in_bucket else SETTLED_S

    def folder(self, base: Path) -> Path:
        """Return where its files lie; a relative path begins at `base`, the folder of the spec."""
        return base / Path(self.path or "").expanduser()


def distinct(sources: tuple[SourceSpec, ...]) -> tuple[SourceSpec, ...]:
    """Return the sources themselves; raise `ValueError` when two share a name."""
    names = [source.slug for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two sources are called {name}: give one of them another name")
    return sources


def require_folders(sources: Sequence[SourceSpec], base: Path) -> None:
    """Raise `BadInput` where a file lies at a source's path; a folder may be made later."""
    for number, source in enumerate(sources):
        if source.path is None or source.in_bucket:
            continue
        if (folder := source.folder(base)).exists() and not folder.is_dir():
            raise BadInput(
                f"sources.{number}.path: {folder} is a file: give the folder that such files are "
                "put into"
            )
