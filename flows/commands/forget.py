"""The right to erasure: one tenant's or one request's data out of everything stored, and what it had gone into named.

Every step can be repeated, and nothing is deleted before what replaces it stands. The act is noted first, without the
name; a run that was killed is continued by the next one.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from infra.canonical import Json
from infra.errors import AlreadyExists, BadInput, NotFound, Refused
from infra.settings import settings
from infra.stores.port import ObjectStore
from tasks import erasure
from tasks.drift.report.page import remove_snapshot
from tasks.erasure import Act
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import EntryKind, LedgerEntry, body
from tasks.specs.registration import current_digest
from tasks.traffic import write_traffic
from tasks.traffic.sources import last_intake, write_last

PASSES = 5
"""Over everything stored: a flow that ran beside the first may have written a sample since."""


@dataclass(frozen=True, slots=True)
class Held:
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
    removed: dict[str, int]  # room -> records
    releases: tuple[Held, ...]
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
    """Remove it everywhere, note the act in the ledger, and say what remains; acts that were killed are ended first.

    Doing it twice changes nothing more. Raises `BadInput` unless exactly one of tenant and request is given.
    """
    if (tenant is None) == (request is None):
        raise BadInput("give exactly one of --tenant and --request: what is to be forgotten?")
    current_digest(model)
    store, who = settings().store(), actor or settings().actor
    act = (
        erasure.new_act("tenant", tenant)
        if tenant is not None
        else erasure.new_act("request", str(request))
    )
    store.put(_note(model, act), erasure.dump_act(act))
    keys = sorted(store.list(f"forgetting/{model}/"), key=lambda key: key == _note(model, act))
    return [
        _carry_out(store, model, erasure.parse_act(store.get(key), where=key), who, reason)
        for key in keys
    ]


def _note(model: str, act: Act) -> str:
    return f"forgetting/{model}/{act.pseudonym}.json"


def _carry_out(store: ObjectStore, model: str, act: Act, actor: str, reason: str) -> Forgotten:
    sweep = _Sweep(store, model, act)
    for _ in range(PASSES):
        before = sweep.removed.total()
        _traffic(sweep)
        _samples(sweep, "windows")
        _samples(sweep, "calibration")
        _rejects(sweep)
        _quarantine(sweep)
        _intakes(sweep)
        if sweep.removed.total() == before:
            break
    releases = _releases(store, model, act)
    places = [done.place for done in last_intake(store, model)]
    result = Forgotten(
        model, act.kind, act.pseudonym, dict(sweep.removed), releases, _remains(releases, places)
    )
    _record(result, actor, reason)
    store.delete(_note(model, act))
    return result


def _traffic(sweep: _Sweep) -> None:
    """The rest of a part is written before the part is deleted: a request may be stored twice for a while."""
    for key in list(sweep.store.list(f"traffic/{sweep.model}/")):
        if key.endswith(".parquet"):
            staying, going = erasure.without_requests(sweep.store.get(key), sweep.act, where=key)
            if going:
                write_traffic(sweep.store, sweep.model, staying)
                _profiles_of(
                    sweep, key
                )  # first: whoever goes on after a kill finds them by the part
                sweep.store.delete(key)
                sweep.removed["traffic"] += len(going)


def _profiles_of(sweep: _Sweep, part: str) -> None:
    """A profile holds tenants and ids of its part; what is left of the part is profiled anew."""
    folder, name = part.removeprefix("traffic/").removesuffix(".parquet").rsplit("/", 1)
    for key in list(sweep.store.list(f"profiles/{folder}/")):
        if key.rsplit("/", 1)[1].startswith(f"{name}-"):
            sweep.store.delete(key)
            sweep.removed["derived"] += 1


def _samples(sweep: _Sweep, room: str) -> None:
    """A sample keeps its name, by which the ledger and releases know it, and says that it was cut."""
    for key in list(sweep.store.list(f"{room}/{sweep.model}/")):
        if not key.endswith(".parquet"):
            continue
        staying, going = erasure.without_requests(sweep.store.get(key), sweep.act, where=key)
        if not going:
            continue
        stem, digest = key.removesuffix(".parquet"), key.split("/")[-1].removesuffix(".parquet")
        _mark(sweep, f"{stem}.forgotten.json", len(going))
        _drop_weights(sweep.store, f"{stem}.weights.json", {one.request_id for one in going})
        for derived in _derived(sweep, room, digest):
            sweep.store.delete(derived)
            sweep.removed["derived"] += 1
        sweep.removed["derived"] += remove_snapshot(
            settings().root / "evidently", sweep.model, digest
        )
        sweep.store.put(key, erasure.sample_bytes(staying))
        sweep.removed[room] += len(going)


def _mark(sweep: _Sweep, key: str, count: int) -> None:
    """First: whoever goes on after a kill still has to name the releases."""
    acts = _document(sweep.store, key)
    sweep.store.put(key, json.dumps({**acts, sweep.act.pseudonym: count}, sort_keys=True).encode())


def _document(store: ObjectStore, key: str) -> dict[str, Json]:
    try:
        return dict(json.loads(store.get(key)))
    except NotFound:
        return {}


def _drop_weights(store: ObjectStore, key: str, ids: set[str]) -> None:
    weights = _document(store, key)
    if ids & set(weights):
        left = {name: value for name, value in weights.items() if name not in ids}
        store.put(key, json.dumps(left, sort_keys=True).encode())


def _derived(sweep: _Sweep, room: str, digest: str) -> Sequence[str]:
    """Observations keep rows of activations, embeddings and drift pages one row a request."""
    store, model = sweep.store, sweep.model
    found = [
        key for key in store.list(f"embeddings/{model}/") if key.endswith(f"-{digest[:32]}.npy")
    ]
    if room == "calibration":
        return [
            *found,
            *(key for key in store.list(f"observations/{model}/") if f"-{digest}" in key),
        ]
    return [*found, *store.list(f"reports/{model}/{digest[:16]}/")]


def _rejects(sweep: _Sweep) -> None:
    for key in list(sweep.store.list(f"rejected/{sweep.model}/")):
        left, gone = erasure.without_lines(sweep.store.get(key), sweep.act)
        if gone:
            if left:
                with contextlib.suppress(AlreadyExists):  # an earlier run was killed after this
                    sweep.store.create(
                        f"rejected/{sweep.model}/{sha256(left).hexdigest()[:32]}.jsonl", left
                    )
            sweep.store.delete(key)
            sweep.removed["rejected"] += gone


def _quarantine(sweep: _Sweep) -> None:
    for key in list(sweep.store.list(f"quarantine/{sweep.model}/")):
        left, gone = erasure.without_entries(sweep.store.get(key), sweep.act, where=key)
        if gone:
            sweep.store.put(key, left)
            sweep.removed["quarantine"] += gone


def _intakes(sweep: _Sweep) -> None:
    """What the last intake of a source did names the files that it could not read."""
    for done in last_intake(sweep.store, sweep.model):
        problems = tuple(one for one in done.problems if not erasure.mentions(one.name, sweep.act))
        if len(problems) < len(done.problems):
            write_last(sweep.store, sweep.model, replace(done, problems=problems))
            sweep.removed["intake"] += len(done.problems) - len(problems)


def _releases(store: ObjectStore, model: str, act: Act) -> tuple[Held, ...]:
    """By the marks on calibration sets, which outlive a kill."""
    marks = [key for key in store.list(f"calibration/{model}/") if key.endswith(".forgotten.json")]
    cut = {
        key.split("/")[-1].removesuffix(".forgotten.json")
        for key in marks
        if act.pseudonym in _document(store, key)
    }
    entries = journal.read(model)
    shown = ledger.aliases(entries)
    found = []
    for key in store.list(f"releases/{model}/"):
        digest = key.split("/")[2]
        if key.endswith(f"{digest}/manifest.json"):
            calibration = _calibration(model, digest)
            if calibration in cut:
                version = _version(entries, digest)
                names = tuple(
                    name
                    for name, value in shown.items()
                    if version is not None and value == version
                )
                found.append(Held(digest, version, names, calibration))
    return tuple(sorted(found, key=lambda one: (int(one.version or 0), one.release)))


def _calibration(model: str, digest: str) -> str:
    """Empty where a release cannot be trusted any more: what it says is then no evidence."""
    try:
        return str(settings().release(model, digest).facts.get("calibration"))
    except (Refused, NotFound, BadInput):
        return ""


def _version(entries: Sequence[LedgerEntry], digest: str) -> str | None:
    return next(
        (one.version for one in reversed(entries) if one.release == digest and one.version), None
    )


def _remains(releases: Sequence[Held], places: Sequence[str]) -> tuple[str, ...]:
    told = [
        "Histograms, ranges and scales that the data helped to fix remain: sums over a whole set, which name nobody.",
        "Backups of the object store, MLflow's runs and Prefect's logs are outside of this command.",
    ]
    if places:
        told.append(
            f"What lies in its sources ({', '.join(places)}) is not touched: delete the data there too, because a file "
            "that changes is read again."
        )
    if releases:
        named = ", ".join(f"version {one.version or '?'}{_aliases(one)}" for one in releases)
        told.append(
            f"The scales and engines of {named} were fixed with a calibration set that held the data. Whoever must "
            "undo that too re-quantizes on today's traffic and promotes the new version: `requant requantize MODEL`."
        )
    return tuple(told)


def _aliases(one: Held) -> str:
    return f" ({', '.join(one.aliases)})" if one.aliases else ""


def _record(result: Forgotten, actor: str, reason: str) -> None:
    """Once an act, and never where nothing was found; the reason is the person's own words, the name is not written."""
    if not result.removed and not result.releases:
        return
    details: dict[str, Json] = {
        "subject": result.kind,
        "pseudonym": result.pseudonym,
        "removed": dict(result.removed),
        "releases": [one.release for one in result.releases],
    }

    def decide(entries: Sequence[LedgerEntry]) -> Mapping[str, Json] | None:
        known = (one for one in entries if one.kind is EntryKind.FORGOTTEN)
        if any(one.details.get("pseudonym") == result.pseudonym for one in known):
            return None
        return body(EntryKind.FORGOTTEN, actor=actor, reason=reason, details=details)

    journal.commit(result.model, decide)
