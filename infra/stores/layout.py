"""Where everything lies in the object store: a kind of object each, whose key one function spells.

Nothing else spells a key. `forget` and whatever removes objects go over `KINDS`, so that a new kind
says here what it holds of people, what it is made from, and whether it can be made again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from infra.identifiers import Key
from infra.stores.port import ObjectStore

_PATTERNS: Mapping[str, str] = {
    "model": "[^/]+",
    "source": "[^/]+",
    "detector": "[^/]+",
    "date": r"\d{4}-\d\d-\d\d",
    "hour": r"\d\d",
    "state": "taken|failed|waiting",
    "variant": "(?:-[^/-]+)?",
    "path": ".+",
}
"""Of the fields of a key; any other is a name without slash, dot and dash."""


class Holds(StrEnum):
    """What an object says about single requests, and so what `forget` does with it."""

    REQUESTS = "requests"  # requests, or names of them, of tenants and of their files: rewritten
    ROWS = "rows"  # a row or a name of each request of its source: deleted with that
    CORPUS = "corpus"  # what whoever registered a model gave, of no tenant: left
    NOTHING = "nothing"  # nobody can be told from it: left


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """What objects of a kind are made from: found by the fields of both keys, and by a digest."""

    kind: str
    field: str  # of the own key, which holds the digest in the source's key
    digits: int = 64  # that it holds of the digest


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object in the store."""

    name: str
    template: str  # of the key, with its fields in braces
    holds: Holds = Holds.NOTHING
    remade: bool = False  # whether a run makes it again, so that it may be removed at any time
    sources: tuple[MadeFrom, ...] = field(default=())

    def key(self, **fields: str) -> Key:
        """Return the key of one object."""
        return Key(self.template.format(**fields))

    def fields(self, key: str) -> Mapping[str, str] | None:
        """Return the fields of a key; None when it is of another kind."""
        match = self._pattern.fullmatch(key)
        return match.groupdict() if match else None

    def prefix(self, **known: str) -> str:
        """Return the folder, with its slash, that all keys with these fields share."""
        unknown = next((name for name in self._names if name not in known), None)
        if unknown is None:
            return self.key(**known)
        return self.template.split(f"{{{unknown}}}")[0].rpartition("/")[0].format(**known) + "/"

    def keys(self, store: ObjectStore, **known: str) -> Iterator[Key]:
        """List the keys of this kind that have these fields, in lexicographic order."""
        for key in store.list(self.prefix(**known)):
            fields = self.fields(key)
            if fields is not None and known.items() <= fields.items():
                yield Key(key)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(re.findall(r"{(\w+)}", self.template))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        texts = re.split(r"{(\w+)}", self.template)
        parts = (
            f"(?P<{text}>{_PATTERNS.get(text, '[^/.-]+')})" if place % 2 else re.escape(text)
            for place, text in enumerate(texts)
        )
        return re.compile("".join(parts))


def _sample(folder: str) -> tuple[ObjectKind, ObjectKind, ObjectKind, ObjectKind]:
    """Return a sample's kinds: its requests, facts, weights, and marks of acts of forgetting."""
    stem = f"{folder}/{{model}}/{{digest}}"
    beside = MadeFrom(folder, "digest")
    return (
        ObjectKind(folder, f"{stem}.parquet", Holds.REQUESTS),
        ObjectKind(f"{folder} facts", f"{stem}.json"),
        ObjectKind(f"{folder} weights", f"{stem}.weights.json", Holds.REQUESTS, sources=(beside,)),
        ObjectKind(f"{folder} marks", f"{stem}.forgotten.json"),
    )


REGISTRATION = ObjectKind("registration", "models/{model}/{registration}/{path}", Holds.CORPUS)
REGISTRATION_IN_USE = ObjectKind("registration in use", "models/{model}/current")
SPEC_FOLDER = ObjectKind("spec folder", "models/{model}/folder.json")
REPLAY = ObjectKind("replay", "models/{model}/traffic.parquet", Holds.CORPUS)

WEIGHT = ObjectKind("weights", "weights/sha256-{digest}")
"""A large weight, which graphs of registrations, candidates and releases name by its digest."""

WEIGHTS_GOING = ObjectKind("weights going", "weights/going.json")
"""Which weights the newest collection removes, so that whoever names one then writes it again."""

TRAFFIC = ObjectKind(
    "traffic", "traffic/{model}/date={date}/hour={hour}/part-{digest}.parquet", Holds.REQUESTS
)
PROFILE = ObjectKind(
    "profile",
    "profiles/{model}/date={date}/hour={hour}/part-{part}-v{version}-{settings}.profile",
    Holds.ROWS,
    remade=True,
    sources=(MadeFrom("traffic", "part"),),
)

WINDOW, WINDOW_FACTS, WINDOW_WEIGHTS, WINDOW_MARKS = _sample("windows")
CALIBRATION, CALIBRATION_FACTS, CALIBRATION_WEIGHTS, CALIBRATION_MARKS = _sample("calibration")

REJECTED = ObjectKind("rejected", "rejected/{model}/{digest}.jsonl", Holds.REQUESTS)
QUARANTINE = ObjectKind("quarantine", "quarantine/{model}/{window}.json", Holds.REQUESTS)
FILE_RECORD = ObjectKind("file record", "intake/{model}/{source}/{state}/{file}-{version}.json")
LAST_INTAKE = ObjectKind("intake", "intake/{model}/{source}/last.json", Holds.REQUESTS)
TRACE_PROGRESS = ObjectKind("trace progress", "intake/{model}/{source}/traces-{experiment}.json")
SOURCE_ORIGIN = ObjectKind("source origin", "intake/{model}/{source}/origin-{rules}.json")

DRAW = ObjectKind("draw", "draws/{model}/{digest}", remade=True)
FROZEN_TRAFFIC = ObjectKind("frozen traffic", "frozen/{model}/{window}.json", remade=True)

_CALIBRATED = MadeFrom("calibration", "calibration")
OBSERVATION = ObjectKind(
    "observation",
    "observations/{model}/{registration}-{calibration}{variant}.npz",
    Holds.ROWS,
    remade=True,
    sources=(_CALIBRATED,),
)
CHAMPION_OBSERVATION = ObjectKind(
    "champion's observation",
    "observations/{model}/{registration}-{calibration}{variant}-seen-by-{release}.npz",
    Holds.ROWS,
    remade=True,
    sources=(_CALIBRATED,),
)
SENSITIVITY = ObjectKind("sensitivity", "sensitivities/{model}/{digest}{variant}.json", remade=True)
# Golden reports among them keep short, redacted examples of golden cases.
CANDIDATE = ObjectKind(
    "candidate", "candidates/{model}/{candidate}/{path}", Holds.CORPUS, remade=True
)
VERDICT = ObjectKind("verdict", "verdicts/{model}/{digest}.json", Holds.CORPUS, remade=True)

EVIDENCE = ObjectKind("evidence", "evidence/{model}/{champion}-{graph}/{detector}/{number}.json")
EMBEDDING = ObjectKind(
    "embedding",
    "embeddings/{model}/{graph}-{sample}.npy",
    Holds.ROWS,
    remade=True,
    sources=tuple(MadeFrom(kind, "sample", digits=32) for kind in ("windows", "calibration")),
)
REPORT = ObjectKind(
    "report",
    "reports/{model}/{window}/{path}",
    Holds.ROWS,
    sources=(MadeFrom("windows", "window", digits=16),),
)
REPORT_LIBRARY = ObjectKind("script of reports", "report-scripts/{digest}.js")

MANIFEST = "manifest.json"
"""The file of a release that is written last: where it stands, the release is complete."""
RELEASE = ObjectKind("release", "releases/{model}/{release}/{path}", Holds.CORPUS)
LEDGER = ObjectKind("ledger", "ledger/{model}/{number}.json")
ACCESS = ObjectKind("access log", "access/{number}.json")
"""Users, roles, tokens' hashes, sign-ins and refusals of the whole store."""
PROJECTION = ObjectKind("projection", "projections/{model}.json")
PROJECTING = ObjectKind("projection under way", "projecting/{model}/{nonce}.json")
FORGETTING = ObjectKind("act of forgetting", "forgetting/{model}/{pseudonym}.json")
TIMING_CACHE = ObjectKind("timing cache", "timing-caches/{path}", remade=True)
STORE_PROBE = ObjectKind("store probe", "doctor/{nonce}", remade=True)

KINDS: tuple[ObjectKind, ...] = tuple(
    kind for kind in list(globals().values()) if isinstance(kind, ObjectKind)
)
"""Every kind of object; each key in the store belongs to exactly one."""


def rows_made_from(store: ObjectStore, kind: ObjectKind, key: str) -> Iterator[Key]:
    """List what holds rows or names of the requests of one object, and goes when they go."""
    fields = dict(kind.fields(key) or {})
    if "digest" not in fields:  # of another's naming: nothing was made of it
        return
    digest = fields.pop("digest")
    for derived in KINDS:
        for source in derived.sources:
            if derived.holds is Holds.ROWS and source.kind == kind.name:
                bound = {source.field: digest[: source.digits], **fields}
                yield from derived.keys(store, **bound)


def registration_file(model: str, registration: str, file: str) -> Key:
    """Return where a registration keeps a file."""
    return REGISTRATION.key(model=model, registration=registration, path=file)


def weight(file: str) -> Key:
    """Return where a file of weights lies; its name is `sha256-` and the digest."""
    return WEIGHT.key(digest=file.removeprefix("sha256-"))


def weights_going() -> Key:
    """Return where the newest collection says which weights it removes."""
    return WEIGHTS_GOING.key()


def registration_in_use(model: str) -> Key:
    """Return where the digest stands that is in use under a model's name."""
    return REGISTRATION_IN_USE.key(model=model)


def spec_folder(model: str) -> Key:
    """Return where it is noted in which folder the spec lay."""
    return SPEC_FOLDER.key(model=model)


def replay(model: str) -> Key:
    """Return where the corpus lies that simulations replay."""
    return REPLAY.key(model=model)


def traffic_part(model: str, hour: datetime, digest: str) -> Key:
    """Return where a part of the traffic of an hour lies; `hour` is in UTC."""
    return TRAFFIC.key(model=model, date=f"{hour:%Y-%m-%d}", hour=f"{hour:%H}", digest=digest)


def part_profile(part: Mapping[str, str], version: int, settings: str) -> Key:
    """Return where the profile of a part lies, by the fields of the part's key."""
    where = {name: part[name] for name in ("model", "date", "hour")}
    return PROFILE.key(**where, part=part["digest"], version=str(version), settings=settings)


def rejected(model: str, digest: str) -> Key:
    """Return where rejected records lie."""
    return REJECTED.key(model=model, digest=digest)


def file_record(model: str, source: str, state: str, file: str, version: str) -> Key:
    """Return where it is noted what became of one version of a source's file (digests)."""
    return FILE_RECORD.key(model=model, source=source, state=state, file=file, version=version)


def last_intake(model: str, source: str) -> Key:
    """Return where it is noted what the last intake of a source did."""
    return LAST_INTAKE.key(model=model, source=source)


def trace_progress(model: str, source: str, experiment: str) -> Key:
    """Return where it is noted how far an experiment was read."""
    return TRACE_PROGRESS.key(model=model, source=source, experiment=experiment)


def source_origin(model: str, source: str, rules: str) -> Key:
    """Return where it is noted from when on a source is read."""
    return SOURCE_ORIGIN.key(model=model, source=source, rules=rules)


def window(model: str, digest: str) -> Key:
    """Return where a window's sample lies."""
    return WINDOW.key(model=model, digest=digest)


def calibration_set(model: str, digest: str) -> Key:
    """Return where a calibration set lies."""
    return CALIBRATION.key(model=model, digest=digest)


def sample_facts(sample: str) -> Key:
    """Return where the facts lie of the sample under a key."""
    return Key(f"{sample.removesuffix('.parquet')}.json")


def sample_weights(sample: str) -> Key:
    """Return where the weights lie of the sample under a key."""
    return Key(f"{sample.removesuffix('.parquet')}.weights.json")


def sample_marks(sample: str) -> Key:
    """Return where the acts of forgetting are noted that cut the sample under a key."""
    return Key(f"{sample.removesuffix('.parquet')}.forgotten.json")


def draw(model: str, digest: str) -> Key:
    """Return where the key of the sample is noted that was drawn from parts by rules (a digest)."""
    return DRAW.key(model=model, digest=digest)


def quarantine(model: str, window: str) -> Key:
    """Return where the requests of a window are listed that must not calibrate."""
    return QUARANTINE.key(model=model, window=window)


def frozen_traffic(model: str, window: str) -> Key:
    """Return where the reference lies that a release of this window will keep of its traffic."""
    return FROZEN_TRAFFIC.key(model=model, window=window)


def observation(model: str, registration: str, calibration: str, limits: str = "") -> Key:
    """Return where a calibration set's observation lies; `limits`: digest of its ceilings."""
    return OBSERVATION.key(
        model=model,
        registration=registration[:16],
        calibration=calibration,
        variant=f"-{limits}" if limits else "",
    )


def champion_observation(observation: str, release: str) -> Key:
    """Return where it lies what a release's quantizers see of an observation's calibration set."""
    return Key(f"{observation.removesuffix('.npz')}-seen-by-{release[:16]}.npz")


def sensitivity(model: str, digest: str, *, others: bool) -> Key:
    """Return where measured losses lie; `others`: of what is no site."""
    return SENSITIVITY.key(model=model, digest=digest, variant="-others" if others else "")


def candidate_file(model: str, candidate: str, file: str) -> Key:
    """Return where a candidate keeps a file."""
    return CANDIDATE.key(model=model, candidate=candidate, path=file)


def verdict(model: str, digest: str) -> Key:
    """Return where the gates' report of a plan lies."""
    return VERDICT.key(model=model, digest=digest)


def evidence_folder(model: str, champion: str, graph: str, detector: str) -> str:
    """Return the prefix under which a detector counts for a champion beside a graph (digests)."""
    return EVIDENCE.prefix(model=model, champion=champion[:16], graph=graph[:16], detector=detector)


def embeddings(model: str, graph: str, sample: str) -> Key:
    """Return where full precision's embeddings of a sample lie."""
    return EMBEDDING.key(model=model, graph=graph[:16], sample=sample[:32])


def report(model: str, window: str, file: str) -> Key:
    """Return where a page or picture of a window's report lies."""
    return REPORT.key(model=model, window=window[:16], path=file)


def report_library(digest: str) -> Key:
    """Return where the script lies that pages of reports share."""
    return REPORT_LIBRARY.key(digest=digest)


def release_file(model: str, release: str, file: str) -> Key:
    """Return where a release keeps a file."""
    return RELEASE.key(model=model, release=release, path=file)


def access_log() -> str:
    """Return the prefix of the access log."""
    return ACCESS.prefix().rstrip("/")


def ledger(model: str) -> str:
    """Return the prefix of a model's ledger, without the slash at its end."""
    return LEDGER.prefix(model=model).removesuffix("/")


def projection(model: str) -> Key:
    """Return where it is noted which promotion the registry's aliases show."""
    return PROJECTION.key(model=model)


def projecting(model: str, nonce: str) -> Key:
    """Return where it is noted which alias a projection is about to set, while it lasts."""
    return PROJECTING.key(model=model, nonce=nonce)


def act_of_forgetting(model: str, pseudonym: str) -> Key:
    """Return where an act of forgetting is noted while it lasts."""
    return FORGETTING.key(model=model, pseudonym=pseudonym)


def timing_cache(host: str) -> Key:
    """Return where the timings of a host's kernels lie."""
    return TIMING_CACHE.key(path=host)


def store_probe(nonce: str) -> Key:
    """Return the key that `doctor` writes and removes."""
    return STORE_PROBE.key(nonce=nonce)
