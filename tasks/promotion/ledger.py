"""What the entries of a model's ledger mean: pure functions over the history, oldest entry first.

The ledger is the chain at `ledger/MODEL` (`infra.chain`). The newest promotion or rollback *is* the
champion: no second record could disagree. A writer reads, decides here, and appends with the head's
number as its fence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from infra.canonical import Json
from infra.chain import Link
from infra.errors import BadInput, NotAllowed, Refused
from infra.identifiers import Digest


class EntryKind(StrEnum):
    """What happened."""

    # A candidate that passed its gates became champion; details: projected_from.
    PROMOTED = "promoted"
    # An earlier champion became champion again; details: projected_from.
    ROLLED_BACK = "rolled-back"
    REFUSED = "refused"  # a candidate's gates, or the rules below, said no
    APPROVAL_REQUESTED = "approval-requested"  # a candidate waits for a person
    APPROVED = "approved"
    REJECTED = "rejected"
    RETRAINING_REQUESTED = "retraining-requested"  # recalibration cannot help
    DECIDED = "decided"  # one maintenance decision about one traffic window; details: window
    INTENDED = "intended"  # a run is about to requantize for a window; details: window, run
    FINISHED = "finished"  # the outcome of an intent, failed ones too; details: window, run
    ALIAS_UNDONE = "alias-undone"  # an operator's move to something unverified was reversed
    # Releases that the registry lacked, or held otherwise, were registered again; details: numbers.
    REGISTERED = "registered"
    # Somebody's data were erased; details: a pseudonym, counts, releases they had gone into.
    FORGOTTEN = "forgotten"
    HOLD_PLACED = "hold-placed"  # a release's bundle must not be removed, for legal reasons
    HOLD_LIFTED = "hold-lifted"
    COLLECTED = "collected"  # bundles were removed that nothing needs; details: releases
    # Live answers of a release broke a limit, and another answers; details: serving, to, limits.
    FELL_BACK = "fell-back"
    RETURNED = "returned"  # the release answers again; details: serving
    # A candidate takes traffic over step by step; details: base, shares.
    DELIVERY_STARTED = "delivery-started"
    DELIVERY_STEPPED = "delivery-stepped"  # details: delivery, step, measured
    DELIVERY_ENDED = "delivery-ended"  # details: delivery, outcome, measured


REGISTRY = "mlflow"
"""Who is named where the registry made it necessary: it does not say who did it."""
NUMBERS = "numbers"
"""The detail that says as which version each release was registered again."""
REQUEST = "request"
"""The detail that names the act behind an entry: the same request is never committed twice."""
FOUR_EYES = "four-eyes"
"""The policy by which nobody approves what they asked for."""
_REIGNS = frozenset({EntryKind.PROMOTED, EntryKind.ROLLED_BACK})
_ANSWERS = frozenset({EntryKind.APPROVED, EntryKind.REJECTED})
_ABOUT_A_VERSION = _REIGNS | _ANSWERS | {EntryKind.APPROVAL_REQUESTED}
_KINDS = {kind.value: kind for kind in EntryKind}
_FIELDS = {"kind", "actor", "reason", "version", "release", "details"}


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One entry of a model's ledger."""

    number: int  # the fence
    time: datetime  # UTC, of the writer's clock
    kind: EntryKind
    actor: str  # a person's name, "schedule", "mlflow"
    reason: str  # one sentence
    version: str | None  # of the registry
    release: Digest | None  # of the release bundle
    details: Mapping[str, Json]
    digest: str = field(default="", compare=False)  # of the entry itself


def body(
    kind: EntryKind,
    *,
    actor: str,
    reason: str,
    version: str | None = None,
    release: str | None = None,
    details: Mapping[str, Json] | None = None,
) -> dict[str, Json]:
    """Return what `Chain.append` takes.

    Raises `BadInput` when an entry of this kind needs a version and has none.
    """
    if kind in _ABOUT_A_VERSION and not version:
        raise BadInput(
            f"A ledger entry of the kind '{kind}' needs the version that it is about: "
            "give version=."
        )
    return {
        "kind": kind.value,
        "actor": actor,
        "reason": reason,
        "version": version,
        "release": release,
        "details": dict(details or {}),
    }


def parse(links: Sequence[Link]) -> tuple[LedgerEntry, ...]:
    """Return the entries of verified links.

    Raises `BadInput` for an entry that this version of Requant cannot read.
    """
    return tuple(_entry(link) for link in links)


def _entry(link: Link) -> LedgerEntry:
    if set(link.body) != _FIELDS:
        raise BadInput(
            f"Ledger entry {link.number} has the fields {sorted(link.body)}: "
            "upgrade Requant to read it."
        )
    fields = link.body
    try:
        kind, time = _KINDS[str(fields["kind"])], datetime.fromisoformat(link.time)
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"Ledger entry {link.number} cannot be read ({error}): upgrade Requant."
        ) from error
    details = fields["details"]
    if not isinstance(details, Mapping):
        raise BadInput(
            f"Ledger entry {link.number} has details that are no object: "
            "upgrade Requant to read it."
        )
    version, release = _optional(fields["version"]), _optional(fields["release"])
    return LedgerEntry(
        link.number,
        time,
        kind,
        str(fields["actor"]),
        str(fields["reason"]),
        version,
        None if release is None else Digest(release),
        details,
        link.digest,
    )


def _optional(value: Json) -> str | None:
    return None if value is None else str(value)


def as_registered(entries: Sequence[LedgerEntry]) -> Sequence[LedgerEntry]:
    """Return the entries with the version that each release is registered as now.

    A registry that lost a version gives its release another number when it is registered again, and
    gives no number to two releases.
    """
    if not any(entry.kind is EntryKind.REGISTERED for entry in entries):
        return entries
    versions: dict[str, str] = {}
    renumbered = []
    for entry in reversed(entries):
        versions = {**_registered_by(entry), **versions}
        version = versions.get(entry.release or "")
        renumbered.append(replace(entry, version=version) if version else entry)
    return renumbered[::-1]


def highest_number(entries: Sequence[LedgerEntry]) -> int:
    """Return the highest number that a version was ever known under; 0 when there was none."""
    recorded = (entry.version or "" for entry in entries)
    again = (number for entry in entries for number in _registered_by(entry).values())
    return max((int(number) for number in (*recorded, *again) if number.isdecimal()), default=0)


def _registered_by(entry: LedgerEntry) -> Mapping[str, str]:
    """Return release -> version, of what an entry says was registered again."""
    named = entry.details.get(NUMBERS) if entry.kind is EntryKind.REGISTERED else None
    if not isinstance(named, Mapping):
        return {}
    return {release: str(number) for release, number in named.items()}


def champion(entries: Sequence[LedgerEntry]) -> LedgerEntry | None:
    """Return the newest promotion or rollback; None before the first."""
    return next(_newest(as_registered(entries), _REIGNS), None)


def previous(entries: Sequence[LedgerEntry]) -> LedgerEntry | None:
    """Return the newest reign of another version than the champion's: who served before."""
    entries = as_registered(entries)
    reigning = champion(entries)
    others = (
        entry
        for entry in _newest(entries, _REIGNS)
        if reigning and entry.version != reigning.version
    )
    return next(others, None)


def pending_approvals(entries: Sequence[LedgerEntry]) -> tuple[LedgerEntry, ...]:
    """Return the approval requests that nobody answered, newest first, one a version.

    A change of champion voids the requests before it: their gates compared against another one.
    """
    entries = as_registered(entries)
    reigning = champion(entries)
    since = reigning.number if reigning else 0
    settled: set[str | None] = set()
    pending = []
    for entry in _newest(entries, _ANSWERS | {EntryKind.APPROVAL_REQUESTED}):
        if (
            entry.number > since
            and entry.version not in settled
            and entry.kind is EntryKind.APPROVAL_REQUESTED
        ):
            pending.append(entry)
        settled.add(entry.version)
    return tuple(pending)


def wants_other_eyes(request: LedgerEntry) -> bool:
    """Return whether another than who asked for a candidate has to approve it."""
    return request.details.get("policy") == FOUR_EYES


def require_other_eyes(request: LedgerEntry, actor: str) -> None:
    """Refuse that somebody approves what they asked for, where the policy says so.

    Raises:
        NotAllowed: They do.
    """
    if wants_other_eyes(request) and request.actor == actor:
        raise NotAllowed(
            f"{actor} asked for version {request.version}, and its spec wants four eyes: somebody "
            "else has to approve it"
        )


def challenger(entries: Sequence[LedgerEntry]) -> LedgerEntry | None:
    """Return the newest approval request that still waits."""
    return next(iter(pending_approvals(entries)), None)


def decided(entries: Sequence[LedgerEntry], window_digest: str, source: str) -> LedgerEntry | None:
    """Return the newest decision about a traffic window and a full-precision graph.

    Where there is one, a second run has nothing to decide. Other weights are decided about anew,
    though not one request came. Entries of earlier versions of Requant name no graph, and count for
    any.
    """
    about = (
        entry
        for entry in _newest(entries, {EntryKind.DECIDED})
        if entry.details.get("window") == window_digest
    )
    return next((entry for entry in about if entry.details.get("source", source) == source), None)


def done_since(entries: Sequence[LedgerEntry], window_digest: str, number: int) -> bool:
    """Return whether a run on the window, begun after that entry, ended without a failure."""
    about = [
        entry
        for entry in entries
        if entry.number > number and entry.details.get("window") == window_digest
    ]
    began = {entry.details.get("run") for entry in about if entry.kind is EntryKind.INTENDED}
    ended = (
        entry
        for entry in about
        if entry.kind is EntryKind.FINISHED and not entry.details.get("failed")
    )
    return any(entry.details.get("run") in began for entry in ended)


def asked_since(entries: Sequence[LedgerEntry], window_digest: str, number: int) -> bool:
    """Return whether retraining was requested for a window after the entry of that number."""
    requests = (
        entry
        for entry in entries
        if entry.kind is EntryKind.RETRAINING_REQUESTED and entry.number > number
    )
    return any(entry.details.get("window") == window_digest for entry in requests)


def open_intent(
    entries: Sequence[LedgerEntry], window_digest: str, now: datetime, lease: timedelta
) -> LedgerEntry | None:
    """Return the intent of a run that may still be at work on the window.

    It is not finished, and younger than the lease.
    An older one belongs to a run that died: another may take the window over.
    """
    finished: set[Json] = set()
    for entry in _newest(entries, {EntryKind.INTENDED, EntryKind.FINISHED}):
        if entry.details.get("window") != window_digest:
            continue
        run = str(entry.details.get("run"))
        if entry.kind is EntryKind.FINISHED:
            finished.add(run)
        elif run not in finished and now < entry.time + lease:
            return entry
    return None


def interrupted(
    entries: Sequence[LedgerEntry], is_dead: Callable[[LedgerEntry], bool]
) -> tuple[LedgerEntry, ...]:
    """Return the intents whose run `is_dead` and that nobody finished or made good, oldest first.

    Made good is what a later run took up on the same window, and all that began before a run that
    ended well.
    """
    ended = {_run(entry) for entry in entries if entry.kind is EntryKind.FINISHED}
    well = [
        entry.number
        for entry in _newest(entries, {EntryKind.FINISHED})
        if not entry.details.get("failed")
    ]
    newest = {
        entry.details.get("window"): entry for entry in entries if entry.kind is EntryKind.INTENDED
    }
    standing = (entry for entry in newest.values() if entry.number > max(well, default=0))
    return tuple(entry for entry in standing if _run(entry) not in ended and is_dead(entry))


def unfinished_intents(
    entries: Sequence[LedgerEntry], is_dead: Callable[[LedgerEntry], bool]
) -> tuple[LedgerEntry, ...]:
    """Return the intents whose run `is_dead` and whose end nobody wrote, oldest first."""
    ended = {_run(entry) for entry in entries if entry.kind is EntryKind.FINISHED}
    return tuple(
        entry
        for entry in entries
        if entry.kind is EntryKind.INTENDED and _run(entry) not in ended and is_dead(entry)
    )


def requested(entries: Sequence[LedgerEntry], request: str) -> LedgerEntry | None:
    """Return the entry that a request led to; None when it led to none yet."""
    return next((entry for entry in entries if entry.details.get(REQUEST) == request), None)


def cut_off_approvals(entries: Sequence[LedgerEntry]) -> tuple[LedgerEntry, ...]:
    """Return the approvals that no promotion followed, newest first, one a version.

    Whoever approved was stopped between the two. A change of champion or a later answer voids them.
    """
    entries = as_registered(entries)
    reigning = champion(entries)
    answered: dict[str | None, LedgerEntry] = {}
    for entry in _newest(entries, _ANSWERS | {EntryKind.APPROVAL_REQUESTED}):
        if entry.number > (reigning.number if reigning else 0):
            answered.setdefault(entry.version, entry)
    return tuple(entry for entry in answered.values() if entry.kind is EntryKind.APPROVED)


def _run(entry: LedgerEntry) -> tuple[Json, Json]:
    return entry.details.get("window"), entry.details.get("run")


def rollback_target(entries: Sequence[LedgerEntry], to: str | None = None) -> LedgerEntry:
    """Return the reign to go back to: the newest of version `to`, or the one before the champion's.

    Rolling back again goes further back, never forward to what was just left: promotions 1, 2, 3
    roll back to 2, then to 1. Raises `Refused` when there is nothing to return to.
    """
    entries, recorded = as_registered(entries), entries
    reigning = champion(entries)
    if reigning is None:
        raise Refused(
            "No version has ever been promoted, so there is nothing to roll back to: "
            "promote one first."
        )
    if to is None:
        return _replaced(entries, reigning)
    if to == reigning.version:
        raise Refused(f"Version {to} is the champion already: name an earlier champion.")
    for entry in _newest(entries, _REIGNS):
        if to in (entry.version, recorded[entry.number - 1].version):
            return entry
    raise Refused(
        f"Version {to} was never champion, so its fitness is unproved: "
        f"roll back to {_names(entries)}."
    )


def _replaced(entries: Sequence[LedgerEntry], reigning: LedgerEntry) -> LedgerEntry:
    standing = _standing(entries)
    if len(standing) < 2:
        raise Refused(
            f"Version {reigning.version} has no champion before it to roll back to: "
            "name one that was champion once."
        )
    return standing[-2]


def _standing(entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """Return the promotions not rolled back past, oldest first; the last is the champion's."""
    standing: list[LedgerEntry] = []
    for entry in entries:
        if entry.kind is EntryKind.ROLLED_BACK and any(
            earlier.version == entry.version for earlier in standing
        ):
            while standing[-1].version != entry.version:
                standing.pop()
        elif entry.kind in _REIGNS and (not standing or standing[-1].version != entry.version):
            standing.append(entry)
    return standing


def _names(entries: Sequence[LedgerEntry]) -> str:
    reigning = champion(entries)
    names = {
        str(entry.version)
        for entry in entries
        if entry.kind in _REIGNS and reigning and entry.version != reigning.version
    }
    if not names:
        return "nothing yet, promote a candidate instead"
    return f"one of {', '.join(sorted(names))}"


def aliases(entries: Sequence[LedgerEntry]) -> dict[str, str | None]:
    """Return what the registry's aliases must show; None: the alias must not exist."""
    entries_by_alias = {
        "champion": champion(entries),
        "previous": previous(entries),
        "challenger": challenger(entries),
    }
    return {alias: entry.version if entry else None for alias, entry in entries_by_alias.items()}


def labels(entries: Sequence[LedgerEntry]) -> Mapping[str, Mapping[str, str]]:
    """Return version -> tags: number and kind of the entry that was last about it."""
    newest = {entry.version: entry for entry in as_registered(entries) if entry.version is not None}
    return {
        version: {"ledger": str(entry.number), "ledger.kind": entry.kind.value}
        for version, entry in newest.items()
    }


def may_promote(entries: Sequence[LedgerEntry], base: str | None) -> None:
    """Pass when the champion still is `base`, which the candidate was judged against; None: none.

    Raises `Refused` when the champion has changed since.
    """
    reigning = champion(entries)
    present = reigning.version if reigning else None
    recorded = next(_newest(entries, _REIGNS), None)
    if present != base and (recorded is None or recorded.version != base):
        raise Refused(
            f"The candidate was judged against {_version(base)}, but the champion now is "
            f"{_version(present)}: judge it again."
        )


def _version(version: str | None) -> str:
    return f"version {version}" if version else "no champion"


def _newest(
    entries: Sequence[LedgerEntry], kinds: frozenset[EntryKind] | set[EntryKind]
) -> Iterator[LedgerEntry]:
    return (entry for entry in reversed(entries) if entry.kind in kinds)
