"""The new files of a source into the object store: each once, and a bad one stops no other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from infra.errors import AlreadyExists, BadInput, NotFound, RequantError, Unavailable
from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks.personal_data.names import clean
from tasks.specs.spec import Task
from tasks.specs.tensors import PayloadShape
from tasks.traffic.checks import Refusal, RequestRules
from tasks.traffic.formats import READERS, TrafficFormat, format_of
from tasks.traffic.formats.files import is_finished
from tasks.traffic.formats.raw import Lone, Raw, Source
from tasks.traffic.formats.triton import first_stamp
from tasks.traffic.imports import Duplicate, Taken, judged
from tasks.traffic.intake import Inlet, Tally, ingestion
from tasks.traffic.rejects import identities
from tasks.traffic.sources.last import Problem, SourceIntake, summary
from tasks.traffic.sources.places import Place, SourceFile
from tasks.traffic.sources.records import Earlier, FileRecord, Records, now_text, place_digest
from tasks.traffic.storage.windows import CLOCK_SKEW

PAIRED = (TrafficFormat.KSERVE, TrafficFormat.CHAT)
"""Formats whose requests and responses may lie in different files, which are read together."""
PATIENCE = timedelta(days=1)
"""How long a request waits for its response in a file that comes later, and the other way round."""
BATCH_FILES = 64
BATCH_BYTES = 256_000_000
"""After so many files, or bytes of them, what they held is stored and recorded."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the files of one source are read."""

    model: str
    source: str  # its name
    task: Task
    shape: PayloadShape  # of one tensor
    format: TrafficFormat | None  # None: the extension tells
    first_at: datetime | None
    settle: float  # seconds
    timezone: str | None = None  # of times without one; None: such times are refused
    refusal: Refusal | None = None  # what the model cannot read

    @property
    def zone(self) -> ZoneInfo | None:
        """Return the zone of times without one."""
        return None if self.timezone is None else ZoneInfo(self.timezone)


@dataclass(frozen=True, slots=True)
class FileChoice:
    """Which files of a listing are read now."""

    read: tuple[SourceFile, ...]  # oldest first
    waiting: tuple[SourceFile, ...]  # read before, for sides whose other may have come
    left: Counter[str]  # why the others are not -> files


def choose(
    files: Iterable[SourceFile], records: Records, settle: float, now: datetime
) -> FileChoice:
    """Choose the files that were not read in this version and were left alone for `settle` seconds.

    A time in the future tells nothing about a file's age: it is read.
    """
    read, waiting, skipped = [], [], Counter[str]()
    for file in files:
        state = records.state(file)
        age = (now - file.modified).total_seconds()
        if not is_finished(file.name):
            skipped["hidden, a marker or in the making by its name"] += 1
        elif state == "waiting":
            waiting.append(file)
        elif state == "failed":
            skipped["could not be read before, and unchanged"] += 1
        elif state == "taken":
            skipped["read before"] += 1
        elif 0 <= age < settle:
            skipped[f"written to in the last {settle:g} s"] += 1
        else:
            read.append(file)

    def by_age(file: SourceFile) -> tuple[datetime, str]:
        return file.modified, file.name

    return FileChoice(tuple(sorted(read, key=by_age)), tuple(sorted(waiting, key=by_age)), skipped)


def take_files(store: ObjectStore, place: Place, reading: Reading, now: datetime) -> SourceIntake:
    """Read what is new and record it; what was taken before an error is stored and told."""
    intake = _Intake(store, place, reading, now)
    try:
        intake.run()
    except (RequantError, OSError) as error:
        intake.error = str(error)
    return intake.result()


@dataclass(slots=True)
class _Outcome:
    """What became of one file."""

    file: SourceFile
    earlier: Earlier
    problem: str | None = None  # why it cannot be read
    passing: bool = False  # whether it is to be tried again though it does not change
    gone: bool = False
    documents: int = 0
    lone: dict[str, str] = field(default_factory=dict)


class _Intake:
    def __init__(self, store: ObjectStore, place: Place, reading: Reading, now: datetime) -> None:
        self._store, self._place, self._reading, self._now = store, place, reading, now
        rules = [place.url, reading.format, reading.first_at]
        self._rules = place_digest(rules + [reading.timezone] * (reading.timezone is not None))
        self._check = RequestRules(
            reading.task, reading.shape, now + CLOCK_SKEW, reading.zone, reading.refusal
        )
        self._total, self._files, self._problems = Tally(), 0, list[Problem]()
        self._left = Counter[str]()
        self.error: str | None = None

    def run(self) -> None:
        files = list(self._place.files())
        reading = self._reading
        self._records = Records(self._store, reading.model, reading.source, self._rules)
        choice = choose(files, self._records, reading.settle, self._now)
        self._left += choice.left
        self._count(
            "gone while something of them waited for its other half",
            self._records.drop_waiting(files),
        )
        if reading.format in PAIRED:
            self._read_together(choice)
        else:
            self._read_singly(choice.read)

    def result(self) -> SourceIntake:
        return summary(
            self._reading.source,
            self._place.url,
            self._now,
            self._total,
            files=self._files,
            left=self._left,
            problems=self._problems,
            error=self.error,
        )

    # --- files that stand for themselves

    def _read_singly(self, files: Sequence[SourceFile]) -> None:
        with ingestion(self._store, self._reading.model) as inlet:
            for batch in _batches(files):
                done = [self._read_one(inlet, file) for file in batch]
                inlet.flush()
                for outcome, tally in done:
                    self._record(outcome, tally, files=1)
                    self._total.add(tally)

    def _read_one(self, inlet: Inlet, file: SourceFile) -> tuple[_Outcome, Tally]:
        outcome = _Outcome(file, self._records.earlier(file))
        records = self._records_of(outcome)
        return outcome, inlet.take(records, self._named(file), self._aside([outcome]))

    def _records_of(self, outcome: _Outcome) -> Iterator[Taken]:
        """Yield what a file holds up to where it breaks off."""
        path = Path(outcome.file.name)
        try:
            with self._place.open(outcome.file) as path:
                format = self._reading.format or format_of(path)
                source = self._source((path,), name=outcome.file.name)
                if format is TrafficFormat.TRITON:
                    source = self._anchored(source)
                for raw in READERS[format](source):
                    yield judged(raw, self._check)
        except Unavailable:
            raise
        except Exception as error:
            _blame(outcome, path, error)

    def _source(
        self, files: Iterable[Path], *, name: str = "", origin: int | None = None
    ) -> Source:
        reading, place = self._reading, self._place.url
        return Source(
            files,
            reading.task,
            reading.shape,
            reading.first_at,
            reading.zone,
            lambda path: f"{place}/{name or path}",
            origin,
        )

    def _anchored(self, source: Source) -> Source:
        """Set the stamp that stands for `first_at`: that of the first file that was ever read."""
        key = layout.source_origin(self._reading.model, self._reading.source, self._rules)
        if not self._store.exists(key):
            stamp = {"version": 1, "stamp": first_stamp(source)}
            with suppress(AlreadyExists):
                self._store.create(key, json.dumps(stamp).encode())
        return replace(source, origin=json.loads(self._store.get(key))["stamp"])

    # --- files that are read together, because requests and responses are joined over all of them

    def _read_together(self, choice: FileChoice) -> None:
        outcomes = [
            _Outcome(file, self._records.earlier(file)) for file in (*choice.waiting, *choice.read)
        ]
        if not choice.read and not any(self._runs_out(outcome.earlier) for outcome in outcomes):
            self._count("wait for the other half of a request", len(outcomes))
            return
        joint = _Joint(outcomes)
        with ingestion(self._store, self._reading.model) as inlet:
            source = f"{self._reading.source} ({len(outcomes)} files)"
            tally = inlet.take(self._joint_records(joint), source, self._aside(outcomes))
        self._total.add(tally)
        for outcome in joint.judged():
            self._record(outcome, tally, files=len(outcomes))

    def _joint_records(self, joint: _Joint) -> Iterator[Taken]:
        source = self._source(joint.paths(self._place))
        assert self._reading.format is not None  # noqa: S101  # it is one of PAIRED
        try:
            for raw in READERS[self._reading.format](_told(source, joint)):
                if raw.lone is None:
                    yield judged(raw, self._check)
                elif (record := self._alone(raw, raw.lone, joint)) is not None:
                    yield record
        except Unavailable:
            raise
        except Exception as error:
            joint.broke_off(error)

    def _alone(self, raw: Raw, lone: Lone, joint: _Joint) -> Taken | None:
        """Known when an earlier reading joined it; None while it waits; set aside after that."""
        outcome = joint.opened[lone.path]
        since = outcome.earlier.lone.get(lone.mark)
        if since is None and lone.place <= outcome.earlier.documents:
            return Duplicate(raw.number)
        if since is not None and self._now - datetime.fromisoformat(since) >= PATIENCE:
            return judged(raw, self._check)
        outcome.lone[lone.mark] = since or now_text(self._now)
        return None

    def _runs_out(self, earlier: Earlier) -> bool:
        times = (datetime.fromisoformat(since) for since in earlier.lone.values())
        return any(self._now - time >= PATIENCE for time in times)

    # --- what is kept

    def _record(self, outcome: _Outcome, tally: Tally, files: int) -> None:
        if outcome.gone:
            self._count("gone before they were read")
            return
        if outcome.problem is None:
            self._files += 1
        else:
            self._problems.append(Problem(self._named(outcome.file), outcome.problem))
            self._count("could not be read")
        record = self._file_record(outcome, tally, files)
        if outcome.lone and outcome.problem is None:
            self._count("wait for the other half of a request")
            self._records.wait(outcome.file, record)
        elif not outcome.passing:
            self._records.settle(outcome.file, record)

    def _file_record(self, outcome: _Outcome, tally: Tally, files: int) -> FileRecord:
        return FileRecord(
            time=self._now.isoformat(),
            size=outcome.file.size,
            documents=outcome.documents,
            files=files,
            accepted=tally.accepted,
            duplicates=tally.duplicates,
            rejected=sum(tally.reasons.values()),
            rejects=tuple(dict.fromkeys((*outcome.earlier.rejects, *tally.rejects))),
            problem=outcome.problem,
            lone=outcome.lone,
        )

    def _aside(self, outcomes: Iterable[_Outcome]) -> set[bytes]:
        """Return what was set aside from the same files before, less what was forgotten since."""
        rejected: set[bytes] = set()
        for key in {key for outcome in outcomes for key in outcome.earlier.rejects}:
            with suppress(NotFound):
                rejected |= identities(self._store.get(key))
        return rejected

    def _named(self, file: SourceFile) -> str:
        name = file.name.encode(errors="backslashreplace").decode()
        return clean(f"{self._reading.source}/{name}").text

    def _count(self, why: str, files: int = 1) -> None:
        if files:
            self._left[why] += files


class _Joint:
    """The files of one joint reading, as the reader asks for them."""

    def __init__(self, outcomes: Sequence[_Outcome]) -> None:
        self._outcomes = outcomes
        self._asked = 0  # files that the reader has begun with
        self._gave_up = False
        self.opened: dict[Path, _Outcome] = {}

    def paths(self, place: Place) -> Iterator[Path]:
        """Yield each file while it is read."""
        for outcome in self._outcomes:
            self._asked += 1
            try:
                with place.open(outcome.file) as path:
                    self.opened[path] = outcome
                    yield path
            except NotFound:
                outcome.gone = True
            except (BadInput, OSError) as error:
                _blame(outcome, Path(outcome.file.name), error)

    def ended(self, path: Path, documents: int, error: Exception | None) -> None:
        """Note the end of a file."""
        self.opened[path].documents = documents
        if error is not None:
            _blame(self.opened[path], path, error)

    def broke_off(self, error: Exception) -> None:
        """Note that the reader gave up in the file that it was in."""
        self._gave_up = True
        outcome = self._outcomes[max(self._asked - 1, 0)]
        _blame(outcome, Path(outcome.file.name), error)

    def judged(self) -> Sequence[_Outcome]:
        """Return all files, or only the last where the reader gave up.

        What waits was not told yet then.
        """
        return (
            self._outcomes[max(self._asked - 1, 0) : self._asked]
            if self._gave_up
            else self._outcomes
        )


def _told(source: Source, joint: _Joint) -> Source:
    return replace(source, ended=joint.ended)


def _blame(outcome: _Outcome, path: Path, error: Exception) -> None:
    """Say why a file cannot be read, without its name; what may pass is tried again."""
    if isinstance(error, (NotFound, FileNotFoundError)):
        outcome.gone = True
        return
    outcome.passing = isinstance(error, OSError)
    if isinstance(error, RequantError):
        reason = str(error)
    elif isinstance(error, OSError):
        reason = f"it cannot be read ({error.strerror or error}): let this account read it"
    else:
        reason = f"it cannot be read ({type(error).__name__}: {error}): write or fetch it again"
    outcome.problem = clean(reason.replace(str(path), "it")).text


def _batches(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    batch: list[SourceFile] = []
    for file in files:
        batch.append(file)
        if len(batch) >= BATCH_FILES or sum(member.size for member in batch) >= BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch
