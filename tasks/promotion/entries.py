"""What each action appends to a ledger: functions from the history to the next entry; pure.

An entry is a body for `Chain.append`; None where there is nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from infra.canonical import Json
from infra.errors import Refused
from infra.identifiers import RunId
from tasks.promotion import ledger
from tasks.promotion.decisions import decision_details
from tasks.promotion.ledger import EntryKind, LedgerEntry, body
from tasks.records import Decision, ReleaseRef, SampleRef, ThinWindow

LEASE = timedelta(hours=2)
"""A run that has not finished by then is taken for dead, and another may act on its window."""
History = Sequence[LedgerEntry]
Body = Mapping[str, Json]
Shown = Callable[[], str | None]
Verify = Callable[[LedgerEntry], ReleaseRef]
ANSWERS = frozenset({EntryKind.APPROVED, EntryKind.REJECTED})


def decided(
    entries: History,
    decision: Decision,
    window: SampleRef | ThinWindow,
    champion: ReleaseRef | None,
    basis: Mapping[str, Json],
    actor: str,
) -> Body | None:
    """Return the decision about a window; None when a run decided about it before.

    `basis` names by digest what else the decision rests on: "source" is the full-precision graph.
    """
    if ledger.decided(entries, decision.window_digest, str(basis["source"])) is not None:
        return None
    details = {
        **decision_details(decision, window),
        **basis,
        "champion": asdict(champion) if champion else None,
    }
    return body(EntryKind.DECIDED, actor=actor, reason=decision.reasons[0], details=details)


def intended(
    entries: History, window: str, run: RunId, process: Json, now: datetime, actor: str, reason: str
) -> Body | None:
    """Return the intent to act on a window; None while another live run acts on it."""
    intent = ledger.open_intent(entries, window, now, LEASE)
    if intent is not None and intent.details.get("run") != run:
        return None
    details: dict[str, Json] = {"window": window, "run": run, "process": process}
    return body(EntryKind.INTENDED, actor=actor, reason=reason, details=details)


def orphan_closed(
    entries: History, window: str, now: datetime, is_gone: Callable[[Json], bool], actor: str
) -> Body | None:
    """Return the end of an intent whose process died; None when nobody died on this window."""
    intent = ledger.open_intent(entries, window, now, LEASE)
    if intent is None or not is_gone(intent.details.get("process")):
        return None
    return _killed(entries, intent, actor)


def any_orphan_closed(
    entries: History, is_dead: Callable[[LedgerEntry], bool], actor: str
) -> Body | None:
    """Return the end of the oldest intent whose run is dead; None when none is left open."""
    orphans = ledger.unfinished_intents(entries, is_dead)
    return _killed(entries, orphans[0], actor) if orphans else None


def _killed(entries: History, intent: LedgerEntry, actor: str) -> Body:
    window, run = str(intent.details.get("window")), RunId(str(intent.details.get("run")))
    return finished(entries, window, run, actor, "failed: its process was killed", failed=True)


def finished(
    _: History, window: str, run: RunId, actor: str, outcome: str, *, failed: bool
) -> Body:
    """Return the end of an intent; after a failure the next run may try again."""
    details: dict[str, Json] = {"window": window, "run": run, "failed": failed}
    return body(EntryKind.FINISHED, actor=actor, reason=outcome, details=details)


def promoted(
    entries: History, release: ReleaseRef, base: str | None, shown: Shown, actor: str, reason: str
) -> Body | None:
    """Return a release's promotion; None when it reigns already.

    Args:
        entries: The history.
        release: What becomes champion.
        base: Version of the champion that it was judged against.
        shown: Asks which version the alias shows in the registry now.
        actor: Who acts.
        reason: Why, in one sentence.

    Raises:
        Refused: Another champion reigns than the one that it was judged against.
    """
    reigning = ledger.champion(entries)
    if reigning is not None and reigning.release == release.digest:
        return None
    ledger.may_promote(entries, base)
    details: dict[str, Json] = {"projected_from": shown()}
    return _about(EntryKind.PROMOTED, release, actor, reason, details)


def rolled_back(
    entries: History,
    to: str | None,
    request: str,
    verify: Verify,
    shown: Shown,
    actor: str,
    reason: str,
) -> Body | None:
    """Return the return of an earlier champion; None when the same request was done before.

    Args:
        entries: The history.
        to: Which version returns; None is the one that the champion replaced.
        request: Names the act: however often it is asked for, it is done once.
        verify: Raises where not every byte of what an entry names is intact.
        shown: As in `promoted`.
        actor: Who acts.
        reason: Why, in one sentence.

    Raises:
        Refused: There is nothing to return to.
    """
    if ledger.requested(entries, request) is not None:
        return None
    target = verify(ledger.rollback_target(entries, to))
    details: dict[str, Json] = {"projected_from": shown(), ledger.REQUEST: request}
    return _about(EntryKind.ROLLED_BACK, target, actor, reason, details)


def approval_requested(
    _: History,
    release: ReleaseRef,
    base: str | None,
    actor: str,
    reason: str,
    policy: str = "manual",
) -> Body:
    """Return that a candidate waits for a person; `base` as in `promoted`.

    The spec's policy stands in the entry, so that no later spec loosens it.
    """
    details: dict[str, Json] = {"base": base, "policy": policy}
    return _about(EntryKind.APPROVAL_REQUESTED, release, actor, reason, details)


def registered_again(_: History, numbers: Mapping[str, str], reason: str) -> Body:
    """Return that releases were registered again; `numbers` is release -> version."""
    details: dict[str, Json] = {ledger.NUMBERS: dict(numbers)}
    return body(EntryKind.REGISTERED, actor=ledger.REGISTRY, reason=reason, details=details)


def refused(_: History, release: ReleaseRef, actor: str, reason: str, gates: Sequence[str]) -> Body:
    """Return which gates refused a candidate."""
    return _about(EntryKind.REFUSED, release, actor, reason, {"gates": list(gates)})


def retraining_requested(
    entries: History, window: SampleRef, source: str, decision: Decision, actor: str
) -> Body | None:
    """Return the request for a new model, with its evidence; None when it was asked before."""
    entry = ledger.decided(entries, window.digest, source)
    if ledger.asked_since(entries, window.digest, entry.number if entry else 0):
        return None
    evidence: list[Json] = [
        finding.text
        for result in decision.results
        for finding in result.findings
        if finding.exceeded
    ]
    details: dict[str, Json] = {
        "window": window.digest,
        "sample": window.key,
        "evidence": evidence,
    }
    return body(
        EntryKind.RETRAINING_REQUESTED, actor=actor, reason=decision.reasons[0], details=details
    )


def answered(
    entries: History,
    model: str,
    version: str,
    approve: bool,
    verify: Verify,
    actor: str,
    reason: str,
) -> Body | None:
    """Return a person's answer to a waiting candidate; None when the same was answered before.

    `verify` is as in `rolled_back`: what is not intact cannot be approved. Raises `Refused` when no
    such candidate waits, `NotAllowed` where another than who asked for it has to approve.
    """
    kind = EntryKind.APPROVED if approve else EntryKind.REJECTED
    request = waiting(entries, version)
    if request is None:
        _require_answered(entries, model, version, kind)
        return None
    if approve:
        ledger.require_other_eyes(request, actor)
        verify(request)
    return body(kind, actor=actor, reason=reason, version=version, release=request.release)


def waiting(entries: History, version: str) -> LedgerEntry | None:
    """Return the request of a version that waits for a person."""
    pending = (entry for entry in ledger.pending_approvals(entries) if entry.version == version)
    return next(pending, None)


def last_request(entries: History, version: str) -> LedgerEntry | None:
    """Return the newest request for a person's answer about a version, answered or not."""
    requests = (
        entry
        for entry in reversed(ledger.as_registered(entries))
        if entry.kind is EntryKind.APPROVAL_REQUESTED and entry.version == version
    )
    return next(requests, None)


def _require_answered(entries: History, model: str, version: str, kind: EntryKind) -> None:
    """Accept the same answer again; refuse another answer, or one to nothing."""
    answers = (
        entry for entry in reversed(entries) if entry.version == version and entry.kind in ANSWERS
    )
    last = next(answers, None)
    if last is None or last.kind is not kind:
        pending = ledger.pending_approvals(entries)
        names = ", ".join(str(entry.version) for entry in pending) or "none"
        raise Refused(f"version {version} of {model} does not wait for approval (waiting: {names})")


def _about(
    kind: EntryKind, release: ReleaseRef, actor: str, reason: str, details: Mapping[str, Json]
) -> Body:
    return body(
        kind,
        actor=actor,
        reason=reason,
        version=release.version,
        release=release.digest,
        details=details,
    )
