"""Scheduled intake: what is new in the sources that a model's spec names, into the object store."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from flows.orchestration.orchestrated import call, leave_table, orchestrated
from flows.orchestration.progress import Progress
from infra.access.roles import Role
from infra.errors import BadInput, RequantError
from infra.processes.exclusive import alone_at
from infra.settings import settings
from infra.stores import open_bucket
from tasks.models.catalog import open_model, spec_folder
from tasks.specs.sources import SourceSpec
from tasks.step import step
from tasks.traffic.formats import TrafficFormat
from tasks.traffic.sources import (
    Folder,
    Objects,
    Place,
    Reading,
    SourceIntake,
    take_files,
    take_traces,
    write_last,
)


@orchestrated("intake", "take-in-{model}", role=Role.OPERATOR, yields=True)
def intake(model: str) -> tuple[SourceIntake, ...]:
    """Read what is new in every source of a model; again, or twice at once, stores nothing twice.

    A source that fails is told and stops no other. Raises `BadInput` when the spec names no source.

    Args:
        model: Name of a registered model, such as minilm.
    """
    sources = open_model(model).spec.sources
    if not sources:
        raise BadInput(
            f"the spec of {model} names no sources: write them there and run `requant model add` "
            "again, or bring one file in with `requant traffic import`"
        )
    progress = Progress(f"take in traffic of {model}")
    intakes = []
    for number, source in enumerate(sources):
        progress.step(f"reading what is new in {source.slug}", number / len(sources))
        intakes.append(take_source(model, source.slug))
        progress.step(_sentence(intakes[-1]), (number + 1) / len(sources))
    leave_table(f"intake-{model}", [_row(done) for done in intakes], "Sources of traffic")
    return tuple(intakes)


def take_in_new(model: str, progress: Progress) -> None:
    """Do the same at the beginning of another flow, which goes on whatever becomes of it."""
    if not open_model(model).spec.sources:
        return
    progress.step("taking in what is new in the sources", 0.05)
    try:
        call(intake, model)
    except RequantError as error:  # the next step tells, if the store is still away
        progress.step(f"sources could not be read: {error}", 0.05)


@step("take-source")
def take_source(model: str, source: str) -> SourceIntake:
    """Read what is new in one source, and keep what was done for people to see."""
    spec = next(item for item in open_model(model).spec.sources if item.slug == source)
    scratch = settings().root / "intake" / model / source
    with alone_at(scratch.with_suffix(".lock")):
        try:
            done = _take(model, spec, scratch)
        except Exception as error:  # the other sources and maintenance go on
            done = _failed(model, spec, error)
        write_last(settings().store(), model, done)
    return done


def _take(model: str, spec: SourceSpec, scratch: Path) -> SourceIntake:
    registered, now = open_model(model), datetime.now(UTC)
    reading = Reading(
        model=model,
        source=spec.slug,
        task=registered.spec.task,
        shape=registered.payload_shape,
        format=TrafficFormat(spec.format) if spec.format else None,
        first_at=spec.first_at,
        settle=spec.settled_after,
        timezone=spec.timezone,
        refusal=registered.refusal,
    )
    store = settings().store()
    if spec.experiment is not None:
        experiment, registry = spec.experiment, settings().registry()
        return take_traces(
            store, experiment, lambda since: registry.trace_pages(experiment, since), reading, now
        )
    return take_files(store, _place(model, spec, scratch), reading, now)


def _place(model: str, spec: SourceSpec, scratch: Path) -> Place:
    if spec.path is None or not spec.in_bucket:
        return Folder(spec.folder(spec_folder(model)))
    shutil.rmtree(scratch, ignore_errors=True)  # what an intake that was killed had copied
    chosen = settings()
    bucket = open_bucket(spec.path, endpoint_url=chosen.s3_endpoint_url, region=chosen.s3_region)
    return Objects(spec.path, bucket, scratch)


def _failed(model: str, spec: SourceSpec, error: Exception) -> SourceIntake:
    text = str(error) if isinstance(error, RequantError) else f"{type(error).__name__}: {error}"
    place = f"mlflow:{spec.experiment}" if spec.experiment else str(spec.path)
    return SourceIntake(
        spec.slug, place, datetime.now(UTC).isoformat(timespec="seconds"), error=text
    )


def _sentence(done: SourceIntake) -> str:
    if done.error:
        return f"{done.source} failed: {done.error}"
    problems = f", {len(done.problems)} unreadable" if done.problems else ""
    return (
        f"{done.source}: {done.files} new{problems}; "
        f"{done.accepted} requests stored, {done.rejected} set aside"
    )


def _row(done: SourceIntake) -> dict[str, str | int]:
    return {
        "source": done.source,
        "place": done.place,
        "read": done.files,
        "stored": done.accepted,
        "known": done.duplicates,
        "set aside": done.rejected,
        "left": "; ".join(f"{count} x {why}" for why, count in done.left.items()),
        "problem": done.error
        or "; ".join(f"{problem.name}: {problem.reason}" for problem in done.problems),
    }
