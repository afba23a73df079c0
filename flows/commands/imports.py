"""Traffic files that a person names, into the object store."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from infra.errors import BadInput
from infra.settings import settings
from tasks.models.catalog import open_model
from tasks.specs.sources import known_zone
from tasks.traffic.formats import TrafficFormat
from tasks.traffic.imports import judge_traces, stream
from tasks.traffic.intake import ingest

SERVER = "mlflow:"
"""Before the name of an experiment whose traces are read from the registry's server."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What became of one file or folder."""

    model: str
    accepted: int
    duplicates: int  # stored before, or twice in the file
    rejected: int
    reasons: dict[str, int]  # reason -> records
    rejects: tuple[str, ...]  # where the rejected records lie
    parts: int  # stored files


def take_in(
    path: str,
    model: str,
    format: str | None = None,
    first_at: str | None = None,
    timezone: str | None = None,
) -> Intake:
    """Check, redact and store every record of a file, a folder, or an experiment ("mlflow:NAME").

    `first_at` is ISO 8601 with a time zone; `timezone` is where the clock stood whose times name no
    zone.

    Raises:
        BadInput: when the source itself cannot be read.
    """
    registered, store = open_model(model), settings().store()
    task, shape, refusal = registered.spec.task, registered.payload_shape, registered.refusal
    if path.startswith(SERVER):
        traces = settings().registry().traces(path.removeprefix(SERVER))
        records = judge_traces(traces, task=task, shape=shape, refusal=refusal)
    else:
        chosen = TrafficFormat(format) if format else None
        start = moment(first_at, "--first-at") if first_at else None
        records = stream(
            Path(path),
            task=task,
            shape=shape,
            format=chosen,
            first_at=start,
            zone=_zone(timezone),
            refusal=refusal,
        )
    ingested = ingest(
        store, model, records, source=path if path.startswith(SERVER) else Path(path).name
    )
    return Intake(
        model=model,
        accepted=ingested.accepted,
        duplicates=ingested.duplicates,
        rejected=ingested.rejected,
        reasons=dict(ingested.reasons),
        rejects=ingested.rejects,
        parts=len(ingested.parts),
    )


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return None if name is None else ZoneInfo(known_zone(name))
    except ValueError as error:
        raise BadInput(f"--timezone: {error}") from None


def moment(text: str, option: str) -> datetime:
    """Return a time from the command line, in UTC; raise `BadInput` without a time zone."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(
            f"{option} is {text!r}: write ISO 8601, such as 2026-01-31T03:00:00Z"
        ) from error
    if time.tzinfo is None:
        raise BadInput(f"{option} is {text!r} without a time zone: end it with Z or an offset")
    return time.astimezone(UTC)
