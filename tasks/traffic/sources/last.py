"""What the last intake of each source did, for people to see."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

from infra.errors import BadInput, NotFound
from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks.traffic.intake import Tally

VERSION = 1
MOST_PROBLEMS = 20
"""Files that are named because they could not be read."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that could not be read."""

    name: str  # below the source's place, redacted
    reason: str


@dataclass(frozen=True, slots=True)
class SourceIntake:
    """What one intake did with one source."""

    source: str
    place: str  # folder, s3://bucket/prefix or mlflow:EXPERIMENT
    time: str  # ISO 8601
    files: int = 0  # that were read; of an experiment, traces
    accepted: int = 0  # requests stored
    duplicates: int = 0  # stored before
    rejected: int = 0  # set aside
    reasons: Mapping[str, int] = field(default_factory=dict)  # reason -> records set aside
    rejects: tuple[str, ...] = ()  # where they lie
    left: Mapping[str, int] = field(default_factory=dict)  # why files were not read -> files
    problems: tuple[Problem, ...] = ()
    error: str | None = None  # why the source could not be read on


def summary(
    source: str,
    place: str,
    now: datetime,
    tally: Tally,
    *,
    files: int,
    left: Mapping[str, int],
    problems: Sequence[Problem] = (),
    error: str | None,
) -> SourceIntake:
    """Return an intake whose records were tallied."""
    return SourceIntake(
        source=source,
        place=place,
        time=now.isoformat(timespec="seconds"),
        files=files,
        accepted=tally.accepted,
        duplicates=tally.duplicates,
        rejected=sum(tally.reasons.values()),
        reasons=dict(tally.reasons),
        rejects=tuple(tally.rejects),
        left={why: count for why, count in left.items() if count},
        problems=tuple(problems[:MOST_PROBLEMS]),
        error=error,
    )


def write_last(store: ObjectStore, model: str, done: SourceIntake) -> None:
    """Keep what an intake did until the next."""
    document = {"version": VERSION, **asdict(done)}
    store.put(layout.last_intake(model, done.source), json.dumps(document, sort_keys=True).encode())


def last_of(store: ObjectStore, model: str, source: str) -> SourceIntake | None:
    """Return the last intake of one source; None before the first."""
    key = layout.last_intake(model, source)
    try:
        return parse_last(store.get(key), where=key)
    except NotFound:
        return None


def last_intake(store: ObjectStore, model: str) -> tuple[SourceIntake, ...]:
    """Return the last intake of every source that was ever read, in the order of their names.

    Raises:
        BadInput: A newer Requant wrote one.
    """
    keys = list(layout.LAST_INTAKE.keys(store, model=model))
    intakes = (parse_last(store.get(key), where=key) for key in keys)
    return tuple(sorted(intakes, key=lambda intake: intake.source))


def parse_last(data: bytes, *, where: str) -> SourceIntake:
    """Read what `write_last` wrote.

    Raises:
        BadInput: The document has another version or is damaged.
    """
    try:
        document = dict(json.loads(data))
        version, problems = document.pop("version"), document.pop("problems")
        if version != VERSION:
            raise BadInput(
                f"{where} has version {version}, not {VERSION}: upgrade Requant to read it"
            )
        rejects = tuple(document.pop("rejects"))
        return SourceIntake(
            **document, rejects=rejects, problems=tuple(Problem(**problem) for problem in problems)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{where} is damaged ({error!r}): delete it, the next intake writes it anew"
        ) from error
