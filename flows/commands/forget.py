"""The right to erasure: the data that `tasks.erasure` finds, out of everything that is stored.

They are those of one tenant or one request. An act goes over every kind of object in
`infra.stores.layout`, and names the releases that the data had gone into. Every step can be
repeated, and nothing is deleted before what replaces it stands. The act is noted first, without the
name; a run that was killed is continued by the next one.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256

from flows.orchestration.identity import authorized
from infra.access.roles import Role
from infra.canonical import Json
from infra.errors import AlreadyExists, BadInput, NotFound, Refused
from infra.identifiers import marked
from infra.settings import settings
from infra.stores import layout
from infra.stores.layout import KINDS, Holds, ObjectKind, rows_made_from
from infra.stores.port import ObjectStore
from tasks import erasure
from tasks.drift.report.page import remove_snapshot
from tasks.erasure import Act
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import EntryKind, LedgerEntry, body
from tasks.specs.registration import current_digest
from tasks.traffic.sources import last_intake, write_last
from tasks.traffic.storage.parts import (
    HOUR,
    STORED_WITHIN_S,
    hour_prefix,
    read_part,
    write_traffic,
)

PASSES = 5
"""Over everything stored: a flow that ran beside the first may have written a sample since."""
MARGIN_S = 2.0
"""Beside the time that a gateway holds what it sampled: for storing it."""


@dataclass(frozen=True, slots=True)
class AffectedRelease:
    """A release whose calibration set held the data."""

    release: str
    version: str | None  # of the registry
    aliases: tuple[str, ...]
    calibration: str  # digest


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What one act removed, and what remains."""

    model: str
    kind: str  # tenant or request
    pseudonym: str
    removed: dict[str, int]  # kind of object, or derived -> records
    releases: tuple[AffectedRelease, ...]
    remains: tuple[str, ...]


@dataclass(slots=True)
class _Sweep:
    store: ObjectStore
    model: str
    act: Act
    removed: Counter[str] = field(default_factory=Counter)


def forget(
    model: str,
    *,
    tenant: str | None = None,
    request: str | None = None,
    reason: str = "asked for",
    actor: str = "",
) -> list[Forgotten]:
    """Remove it everywhere, note the act in the ledger, and say what remains.

    Acts that were killed are ended first. Doing it twice changes nothing more.

    Raises:
        BadInput: Unless exactly one of tenant and request is given.
        NotFound: No model has the name.
    """
    if (tenant is None) == (request is None):
        raise BadInput("give exactly one of --tenant and --request: what is to be forgotten?")
    current_digest(model)
    store, who = settings().store(), actor or authorized(Role.ADMIN, model, f"make {model} forget")
    act = (
        erasure.new_act("tenant", tenant)
        if tenant is not None
        else erasure.new_act("request", str(request))
    )
    note = layout.act_of_forgetting(model, act.pseudonym)
    store.put(note, erasure.dump_act(act))
    keys = sorted(store.list(layout.FORGETTING.prefix(model=model)), key=lambda key: key == note)
    return [
        _carry_out(store, model, erasure.parse_act(store.get(key), where=key), who, reason)
        for key in keys
    ]


def _carry_out(store: ObjectStore, model: str, act: Act, actor: str, reason: str) -> Forgotten:
    sweep, live = _Sweep(store, model, act), _is_live(store, model)
    _sweep_all(sweep)
    if live:  # a gateway may hold requests that came before
        time.sleep(STORED_WITHIN_S + MARGIN_S)
        _sweep_all(sweep)
    releases = _affected_releases(store, model, act)
    places = [intake.place for intake in last_intake(store, model)]
    result = Forgotten(
        model, act.kind, act.pseudonym, dict(sweep.removed), releases, _remains(releases, places)
    )
    _record(result, actor, reason)
    store.delete(layout.act_of_forgetting(model, act.pseudonym))
    return result


def _sweep_all(sweep: _Sweep) -> None:
    for _ in range(PASSES):
        before = sweep.removed.total()
        for kind in KINDS:
            if kind.holds is Holds.REQUESTS and not kind.sources:
                ERASERS[kind](sweep, kind)
        if sweep.removed.total() == before:
            break


def _is_live(store: ObjectStore, model: str) -> bool:
    """Return whether a gateway stored requests within this hour or the last one."""
    now = datetime.now(UTC)
    keys = (key for at in (now, now - HOUR) for key in store.list(hour_prefix(model, at)))
    return any(marked(row.request_id)[1] for key in keys for row in read_part(store, key))


def _parquet_files(sweep: _Sweep, kind: ObjectKind) -> list[str]:
    """List a folder's Parquet files, also those under a name that others gave them."""
    keys = sweep.store.list(kind.prefix(model=sweep.model))
    return [key for key in keys if key.endswith(".parquet")]


def _traffic(sweep: _Sweep, kind: ObjectKind) -> None:
    """Write the rest of a part before it is deleted: requests may be stored twice for a while."""
    for key in _parquet_files(sweep, kind):
        staying, going = erasure.without_requests(sweep.store.get(key), sweep.act, where=key)
        if going:
            write_traffic(sweep.store, sweep.model, staying)
            # First: whoever goes on after a kill finds them by the part.
            _delete_rows(sweep, kind, key)
            sweep.store.delete(key)
            sweep.removed[kind.name] += len(going)


def _delete_rows(sweep: _Sweep, kind: ObjectKind, key: str) -> None:
    """Delete what holds rows of the object's requests; runs make it anew from what is left."""
    for derived in list(rows_made_from(sweep.store, kind, key)):
        sweep.store.delete(derived)
        sweep.removed["derived"] += 1


def _samples(sweep: _Sweep, kind: ObjectKind) -> None:
    """Cut samples; one keeps its name, by which the ledger and releases know it, and says so."""
    for key in _parquet_files(sweep, kind):
        staying, going = erasure.without_requests(sweep.store.get(key), sweep.act, where=key)
        if going:
            _mark(sweep, layout.sample_marks(key), len(going))
            _drop_weights(sweep.store, key, {request.request_id for request in going})
            _delete_rows(sweep, kind, key)
            _delete_snapshot(sweep, key)
            sweep.store.put(key, erasure.sample_bytes(staying))
            sweep.removed[kind.name] += len(going)


def _delete_snapshot(sweep: _Sweep, sample: str) -> None:
    """Delete what Evidently's server keeps of a window: it lies in a folder, beside the store."""
    digest = sample.rpartition("/")[2].removesuffix(".parquet")
    snapshots = settings().root / "evidently"
    sweep.removed["derived"] += remove_snapshot(snapshots, sweep.model, digest)


def _mark(sweep: _Sweep, key: str, count: int) -> None:
    """First: whoever goes on after a kill still has to name the releases."""
    acts = _document(sweep.store, key)
    sweep.store.put(key, json.dumps({**acts, sweep.act.pseudonym: count}, sort_keys=True).encode())


def _document(store: ObjectStore, key: str) -> dict[str, Json]:
    try:
        return dict(json.loads(store.get(key)))
    except NotFound:
        return {}


def _drop_weights(store: ObjectStore, sample: str, ids: set[str]) -> None:
    key = layout.sample_weights(sample)
    weights = _document(store, key)
    if ids & set(weights):
        remaining = {name: value for name, value in weights.items() if name not in ids}
        store.put(key, json.dumps(remaining, sort_keys=True).encode())


def _rejects(sweep: _Sweep, kind: ObjectKind) -> None:
    for key in list(sweep.store.list(kind.prefix(model=sweep.model))):
        remaining, count = erasure.without_lines(sweep.store.get(key), sweep.act)
        if count:
            if remaining:
                with contextlib.suppress(AlreadyExists):  # an earlier run was killed after this
                    rest = layout.rejected(sweep.model, sha256(remaining).hexdigest()[:32])
                    sweep.store.create(rest, remaining)
            sweep.store.delete(key)
            sweep.removed[kind.name] += count


def _quarantine(sweep: _Sweep, kind: ObjectKind) -> None:
    for key in list(sweep.store.list(kind.prefix(model=sweep.model))):
        remaining, count = erasure.without_entries(sweep.store.get(key), sweep.act, where=key)
        if count:
            sweep.store.put(key, remaining)
            sweep.removed[kind.name] += count


def _intakes(sweep: _Sweep, kind: ObjectKind) -> None:
    """Drop names of files that the last intake of a source could not read."""
    for intake in last_intake(sweep.store, sweep.model):
        problems = tuple(
            problem for problem in intake.problems if not erasure.mentions(problem.name, sweep.act)
        )
        if len(problems) < len(intake.problems):
            write_last(sweep.store, sweep.model, replace(intake, problems=problems))
            sweep.removed[kind.name] += len(intake.problems) - len(problems)


ERASERS: Mapping[ObjectKind, Callable[[_Sweep, ObjectKind], None]] = {
    layout.TRAFFIC: _traffic,
    layout.WINDOW: _samples,
    layout.CALIBRATION: _samples,
    layout.REJECTED: _rejects,
    layout.QUARANTINE: _quarantine,
    layout.LAST_INTAKE: _intakes,
}
"""How each kind that holds requests loses them, and what was made of it with them."""


def _affected_releases(store: ObjectStore, model: str, act: Act) -> tuple[AffectedRelease, ...]:
    """Find releases by the marks on calibration sets, which outlive a kill."""
    marks = layout.CALIBRATION_MARKS
    cut = {
        (marks.fields(key) or {})["digest"]
        for key in marks.keys(store, model=model)
        if act.pseudonym in _document(store, key)
    }
    entries = journal.read(model)
    releases = []
    for key in layout.RELEASE.keys(store, model=model, path=layout.MANIFEST):
        digest = (layout.RELEASE.fields(key) or {})["release"]
        calibration = _calibration(model, digest)
        if calibration in cut:
            version = _version(entries, digest)
            names = _alias_names(entries, version)
            releases.append(AffectedRelease(digest, version, names, calibration))
    return tuple(sorted(releases, key=lambda item: (int(item.version or 0), item.release)))


def _alias_names(entries: Sequence[LedgerEntry], version: str | None) -> tuple[str, ...]:
    aliases = ledger.aliases(entries).items()
    return tuple(name for name, value in aliases if version is not None and value == version)


def _calibration(model: str, digest: str) -> str:
    """Return the digest of a release's calibration set.

    It is empty where the release cannot be trusted any more: what it says is then no evidence.
    """
    try:
        return str(settings().release(model, digest).facts.get("calibration"))
    except (Refused, NotFound, BadInput):
        return ""


def _version(entries: Sequence[LedgerEntry], digest: str) -> str | None:
    return next(
        (entry.version for entry in reversed(entries) if entry.release == digest and entry.version),
        None,
    )


def _remains(releases: Sequence[AffectedRelease], places: Sequence[str]) -> tuple[str, ...]:
    sentences = [
        "Histograms, ranges and scales that the data helped to fix remain: "
        "sums over a whole set, which name nobody.",
        "Backups of the object store, MLflow's runs and Prefect's logs "
        "are outside of this command.",
    ]
    if places:
        sentences.append(
            f"What lies in its sources ({', '.join(places)}) is not touched: "
            "delete the data there too, because a file that changes is read again."
        )
    if releases:
        named = ", ".join(
            f"version {release.version or '?'}{_aliases(release)}" for release in releases
        )
        sentences.append(
            f"The scales and engines of {named} were fixed with a calibration set "
            "that held the data. Whoever must undo that too re-quantizes on today's traffic "
            "and promotes the new version: `requant requantize MODEL`."
        )
    return tuple(sentences)


def _aliases(release: AffectedRelease) -> str:
    return f" ({', '.join(release.aliases)})" if release.aliases else ""


def _record(result: Forgotten, actor: str, reason: str) -> None:
    """Note an act once in the ledger, and never where nothing was removed.

    The reason is the person's own words; the name is not written.
    """
    if not result.removed and not result.releases:
        return
    details: dict[str, Json] = {
        "subject": result.kind,
        "pseudonym": result.pseudonym,
        "removed": dict(result.removed),
        "releases": [affected.release for affected in result.releases],
    }

    def decide(entries: Sequence[LedgerEntry]) -> Mapping[str, Json] | None:
        acts = (entry for entry in entries if entry.kind is EntryKind.FORGOTTEN)
        if any(act.details.get("pseudonym") == result.pseudonym for act in acts):
            return None
        return body(EntryKind.FORGOTTEN, actor=actor, reason=reason, details=details)

    journal.commit(result.model, decide)
