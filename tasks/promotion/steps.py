"""The steps of promotion: release, promote, approve, roll back, reconcile, and the notes a run leaves."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from infra.canonical import Json
from infra.errors import BadInput, NotFound, Refused, RequantError
from infra.processes.identity import identity, is_gone
from infra.releases import write_release
from infra.settings import settings
from tasks.models.catalog import open_model
from tasks.profiles.frozen import FROZEN
from tasks.promotion import journal, ledger
from tasks.promotion.card import card
from tasks.promotion.decisions import decision_details, nothing_left, past_decisions, recorded
from tasks.promotion.ledger import EntryKind, LedgerEntry, body
from tasks.promotion.reconcile import AliasState, Reconciliation, Verification, reconcile
from tasks.records import (
    CandidateRef,
    Decision,
    EngineRef,
    GateReport,
    PastDecision,
    ReleaseRef,
    SampleRef,
    ThinWindow,
)
from tasks.step import flow_run_id, step

LEASE = timedelta(hours=2)
"""A run that has not finished by then is taken for dead, and another may act on its window."""
LIBRARIES = ("onnx", "onnxruntime", "numpy", "torch", "tensorrt_rtx", "tensorrt")
"""Whose versions a release records, as far as they are installed: a GPU host need not have both of the last."""


def _version(library: str) -> str | None:
    try:
        return installed(library)
    except PackageNotFoundError:
        return None


@step("read-champion")
def read_champion(model: str) -> ReleaseRef | None:
    """Who serves, by the ledger."""
    return champion_of(model)


def champion_of(model: str) -> ReleaseRef | None:
    """The ledger's champion; None before the first promotion."""
    return _reference(model, ledger.champion(journal.read(model)))


def decisions_before(model: str, window: str, source: str) -> tuple[PastDecision, ...]:
    """What was decided before, oldest first: nothing from the decision about this window and these weights on."""
    entries = journal.read(model)
    entry = ledger.decided(entries, window, source)
    return past_decisions(entries, before=entry.number if entry else None)


def acted_on(model: str, window: str, source: str) -> bool:
    """Whether a run still holds, or finished, a re-quantization for what was decided about this window and weights."""
    entries = journal.read(model)
    entry = ledger.decided(entries, window, source)
    if ledger.done_since(entries, window, entry.number if entry else 0):
        return True
    held = ledger.open_intent(entries, window, datetime.now(UTC), LEASE)
    return held is not None and not is_gone(held.details.get("process"))


def settled(model: str, window: str, source: str, champion: ReleaseRef) -> Decision | None:
    """The decision about this window and these weights, once nothing of it is left to be done."""
    entries = journal.read(model)
    entry = ledger.decided(entries, window, source)
    if entry is None:
        return None
    acted = acted_on(model, window, source)
    return (
        recorded(entry)
        if nothing_left(entry, entries, champion=champion.version, acted=acted)
        else None
    )


@step("record-decision")
def record_decision(
    model: str,
    decision: Decision,
    actor: str,
    champion: ReleaseRef | None,
    window: SampleRef | ThinWindow,
    basis: Mapping[str, Json],
) -> bool:
    """Append the decision about a window and the weights once, "keep" too; False when a run decided before.

    `basis` names by digest what else it rests on: the full-precision graph, the references, the evidence.
    """

    def decide(entries: Sequence[LedgerEntry]) -> Mapping[str, Json] | None:
        if ledger.decided(entries, decision.window_digest, str(basis["source"])) is not None:
            return None
        details = {
            **decision_details(decision, window),
            **basis,
            "champion": asdict(champion) if champion else None,
        }
        return body(EntryKind.DECIDED, actor=actor, reason=decision.reasons[0], details=details)

    return journal.commit(model, decide) is not None


@step("claim-window")
def claim(model: str, window: str, run: str, actor: str, reason: str) -> bool:
    """Write the intent before acting; False when another live run already acts on this window.

    The intent of a run whose process is certainly gone is closed first: what was killed may be continued at once.
    """
    while journal.commit(model, lambda entries: _orphan_closed(entries, window, actor)) is not None:
        pass

    def decide(entries: Sequence[LedgerEntry]) -> Mapping[str, Json] | None:
        taken = ledger.open_intent(entries, window, datetime.now(UTC), LEASE)
        if taken is not None and taken.details.get("run") != run:
            return None
        return body(EntryKind.INTENDED, actor=actor, reason=reason, details=details)

    details: dict[str, Json] = {"window": window, "run": run, "process": identity()}
    return journal.commit(model, decide) is not None


@step("finish-window")
def finish(
    model: str, window: str, run: str, actor: str, outcome: str, failed: bool = False
) -> None:
    """Close the intent, whatever came of it; after a failure the next run may try again."""
    details: dict[str, Json] = {"window": window, "run": run, "failed": failed}
    journal.commit(
        model, lambda _: body(EntryKind.FINISHED, actor=actor, reason=outcome, details=details)
    )


@step("release-candidate")
def release_candidate(
    candidate: CandidateRef,
    engines: Sequence[EngineRef],
    reports: Sequence[GateReport],
    run_name: str,
    frozen: str | None = None,
    window: str = "",
) -> ReleaseRef:
    """Bundle graph, engines, scales and golden reports; sign; register as an MLflow model version.

    `frozen` is the key of what is kept of the traffic at hand; later windows are compared with it. `window` is the
    digest of the traffic that it was built for.
    """
    store = settings().store()
    prefix = candidate.key("")
    files = {key.removeprefix(prefix): store.get(key) for key in store.list(prefix)}
    if frozen is not None:
        files[FROZEN] = store.get(frozen)
    recorded: Mapping[str, Json] = json.loads(files.pop("candidate.json"))
    facts: dict[str, Json] = {
        **recorded,
        "engines": [asdict(engine) for engine in engines],
        "verdicts": {report.target: report.verdict.value for report in reports},
        "libraries": {name: found for name in LIBRARIES if (found := _version(name)) is not None},
    }
    release = write_release(store, candidate.model, files, facts, settings().signer())
    metrics = {
        f"{report.target}/{gate.metric}.{gate.group.replace('=', '.')}": gate.estimate.value
        for report in reports
        for gate in report.gates
        if gate.estimate is not None
    }
    reigning = champion_of(candidate.model)
    version = (
        settings()
        .registry()
        .register(
            candidate.model,
            files.get("engines/onnxruntime-cpu/plan", files["graph.onnx"]),
            release=release.digest,
            tags={
                "recipe": candidate.recipe,
                "calibration": candidate.calibration,
                **_origin_tags(window),
                **_verdict_tags(reports),
            },
            run_name=run_name,
            metrics=metrics,
            params={
                "recipe": candidate.recipe,
                "quantized_share": f"{candidate.quantized_share:.4f}",
            },
            artifacts={name: data for name, data in files.items() if name.startswith("golden/")},
            card=card(
                open_model(candidate.model),
                candidate,
                reports,
                window=window,
                champion=reigning.version if reigning else None,
                release=release.digest,
                store=settings().store_address,
            ),
        )
    )
    for key in list(store.list(prefix)):
        store.delete(key)
    return ReleaseRef(candidate.model, version, release.digest)


@step("promote")
def promote(release: ReleaseRef, base: str | None, actor: str, reason: str) -> None:
    """Make a release champion, if the champion it was judged against still reigns; raises `Refused` otherwise."""
    _promote(release, base, actor, reason)


@step("request-approval")
def request_approval(release: ReleaseRef, base: str | None, actor: str, reason: str) -> None:
    """Let a passing candidate wait for a person, as `challenger`."""
    entry = body(
        EntryKind.APPROVAL_REQUESTED,
        actor=actor,
        reason=reason,
        version=release.version,
        release=release.digest,
        details={"base": base},
    )
    journal.commit(release.model, lambda _: entry)
    _show(release.model)


@step("record-refusal")
def record_refusal(release: ReleaseRef, actor: str, reason: str, gates: Sequence[str]) -> None:
    """Note which gates refused a candidate."""
    details: dict[str, Json] = {"gates": list(gates)}
    entry = body(
        EntryKind.REFUSED,
        actor=actor,
        reason=reason,
        version=release.version,
        release=release.digest,
        details=details,
    )
    journal.commit(release.model, lambda _: entry)
    _label(release.model)


@step("request-retraining")
def request_retraining(
    model: str, window: SampleRef, source: str, decision: Decision, actor: str
) -> bool:
    """Ask for a new model, with the evidence; once per decision about a window and the weights."""

    def decide(entries: Sequence[LedgerEntry]) -> Mapping[str, Json] | None:
        decided = ledger.decided(entries, window.digest, source)
        if ledger.asked_since(entries, window.digest, decided.number if decided else 0):
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

    return journal.commit(model, decide) is not None


@step("answer-approval")
def answer_approval(model: str, version: str, approve: bool, actor: str, reason: str) -> None:
    """A person's yes or no to a waiting candidate; answering the same twice acts once.

    Raises `Refused` when no such candidate waits or the champion has changed since it was judged.
    """
    kind = EntryKind.APPROVED if approve else EntryKind.REJECTED
    waiting: list[LedgerEntry] = []

    def decide(entries: Sequence[LedgerEntry]) -> Mapping[str, Json] | None:
        waiting[:] = [item for item in ledger.pending_approvals(entries) if item.version == version]
        if not waiting:
            _check_answered_before(entries, model, version, kind)
            return None
        return body(kind, actor=actor, reason=reason, version=version, release=waiting[0].release)

    journal.commit(model, decide)
    asked = waiting[0] if waiting else _last_request(journal.read(model), version)
    if approve and asked is not None and asked.release is not None:
        reigning = champion_of(model)
        if reigning is None or reigning.version != version:
            base = asked.details.get("base")
            _promote(
                ReleaseRef(model, version, asked.release),
                None if base is None else str(base),
                actor,
                reason,
            )
    _show(model)


@step("roll-back")
def roll_back(model: str, to: str | None, actor: str, reason: str) -> ReleaseRef:
    """Make an earlier champion serve again; its bytes and signature are verified first."""
    chosen: list[LedgerEntry] = []

    def decide(entries: Sequence[LedgerEntry]) -> Mapping[str, Json]:
        target = ledger.rollback_target(entries, to)
        _verify(model, target)
        chosen[:] = [target]
        details: dict[str, Json] = {"projected_from": journal.shown_champion(model)}
        return body(
            EntryKind.ROLLED_BACK,
            actor=actor,
            reason=reason,
            version=target.version,
            release=target.release,
            details=details,
        )

    journal.commit(model, decide)
    _show(model)
    reference = _reference(model, chosen[0])
    assert reference is not None  # noqa: S101  # a reign always names a version and a release
    return reference


@step("reconcile")
def reconcile_model(model: str) -> Reconciliation:
    """Compare the registry's alias with the ledger, record what an operator did, and bring both in step."""
    found: list[Reconciliation] = []

    def decide(entries: Sequence[LedgerEntry]) -> Mapping[str, Json] | None:
        observed = journal.shown_champion(model)
        verified = {} if observed is None else {observed: _verification(model, observed)}
        found[:] = [reconcile(entries, observed, verified, journal.mark(model))]
        return found[0].record

    journal.commit(model, decide)
    if found[0].outcome is not AliasState.IN_STEP or found[0].mark:
        journal.project(model)
    _label(model)
    return found[0]


def _show(model: str) -> None:
    """Bring the registry in step with the ledger: aliases, by which others load, and tags, which are for people."""
    journal.project(model)
    _label(model)


def _label(model: str) -> None:
    """The ledger holds already: tags that fail are told, not raised, and the next reconciliation sets them."""
    try:
        journal.label(model)
    except RequantError as exc:
        logging.getLogger(__name__).warning(
            "the next reconciliation tags the versions of %s: %s", model, exc
        )


def _orphan_closed(
    entries: Sequence[LedgerEntry], window: str, actor: str
) -> Mapping[str, Json] | None:
    """The end of an intent whose process died, or None when nobody died on this window."""
    held = ledger.open_intent(entries, window, datetime.now(UTC), LEASE)
    if held is None or not is_gone(held.details.get("process")):
        return None
    details: dict[str, Json] = {"window": window, "run": held.details.get("run"), "failed": True}
    return body(
        EntryKind.FINISHED, actor=actor, reason="failed: its process was killed", details=details
    )


def _promote(release: ReleaseRef, base: str | None, actor: str, reason: str) -> None:
    def decide(entries: Sequence[LedgerEntry]) -> Mapping[str, Json] | None:
        reigning = ledger.champion(entries)
        if reigning is not None and reigning.release == release.digest:
            return None
        ledger.may_promote(entries, base)
        details: dict[str, Json] = {"projected_from": journal.shown_champion(release.model)}
        return body(
            EntryKind.PROMOTED,
            actor=actor,
            reason=reason,
            version=release.version,
            release=release.digest,
            details=details,
        )

    settings().release(release.model, release.digest)
    journal.commit(release.model, decide)
    _show(release.model)


def _check_answered_before(
    entries: Sequence[LedgerEntry], model: str, version: str, kind: EntryKind
) -> None:
    """The same answer again is fine; another answer, or none to give, is refused."""
    answers = (item for item in reversed(entries) if item.version == version)
    last = next(
        (item for item in answers if item.kind in (EntryKind.APPROVED, EntryKind.REJECTED)), None
    )
    if last is None or last.kind is not kind:
        waiting = (
            ", ".join(str(item.version) for item in ledger.pending_approvals(entries)) or "none"
        )
        raise Refused(
            f"version {version} of {model} does not wait for approval (waiting: {waiting})"
        )


def _last_request(entries: Sequence[LedgerEntry], version: str) -> LedgerEntry | None:
    asked = (
        item
        for item in reversed(entries)
        if item.kind is EntryKind.APPROVAL_REQUESTED and item.version == version
    )
    return next(asked, None)


def _verify(model: str, target: LedgerEntry) -> None:
    if target.release is None:
        raise Refused(
            f"version {target.version} of {model} has no release recorded, so it cannot be verified"
        )
    release = settings().release(model, target.release)
    for name in release.files:
        release.file(name)


def _verification(model: str, version: str) -> Verification:
    try:
        digest = settings().registry().version(model, version).release
        if digest is None:
            return Verification(False, "it carries no release")
        release = settings().release(model, digest)
        for name in release.files:
            release.file(name)
    except (Refused, NotFound, BadInput) as exc:
        return Verification(False, str(exc))
    if not _passed(release.facts):
        return Verification(False, "its golden gates did not pass")
    return Verification(True, release=digest)


def _passed(facts: Mapping[str, Json]) -> bool:
    """An operator may bring back only what the gates let through on the target that could be executed."""
    verdicts = facts.get("verdicts")
    return (
        isinstance(verdicts, Mapping)
        and "passed" in verdicts.values()
        and "failed" not in verdicts.values()
    )


def _origin_tags(window: str) -> dict[str, str]:
    """Which run made a version, and for which traffic; nothing outside of a flow."""
    origin = {"flow_run": flow_run_id() or "", "window": window}
    return {name: value for name, value in origin.items() if value}


def _verdict_tags(reports: Sequence[GateReport]) -> dict[str, str]:
    return {f"verdict.{report.target}": report.verdict.value for report in reports}


def _reference(model: str, entry: LedgerEntry | None) -> ReleaseRef | None:
    if entry is None or entry.version is None or entry.release is None:
        return None
    return ReleaseRef(model, entry.version, entry.release)
