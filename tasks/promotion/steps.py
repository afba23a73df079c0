"""The steps of promotion: release, promote, approve, roll back, reconcile, and a run's notes."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from infra.canonical import Json
from infra.processes.identity import identity, is_gone
from infra.releases import write_release
from infra.settings import settings
from tasks.models.catalog import open_model
from tasks.profiles.frozen import FROZEN
from tasks.promotion import entries, history, journal, ledger
from tasks.promotion.card import card
from tasks.promotion.reconcile import AliasState, Reconciliation, reconcile
from tasks.promotion.release import Judged, register
from tasks.promotion.verification import require_intact, verification
from tasks.records import (
    CandidateRef,
    Decision,
    EngineRef,
    GateReport,
    ReleaseRef,
    SampleRef,
    ThinWindow,
)
from tasks.step import flow_run_id, step


@step("read-champion")
def read_champion(model: str) -> ReleaseRef | None:
    """Return who serves, by the ledger."""
    return history.champion_of(model)


@step("record-decision")
def record_decision(
    model: str,
    decision: Decision,
    actor: str,
    champion: ReleaseRef | None,
    window: SampleRef | ThinWindow,
    basis: Mapping[str, Json],
) -> bool:
    """Append the decision about a window and the weights; False when a run decided before.

    `basis` names by digest what else it rests on: the full-precision graph, references, evidence.
    """
    decide = partial(
        entries.decided,
        decision=decision,
        window=window,
        champion=champion,
        basis=basis,
        actor=actor,
    )
    return journal.commit(model, decide) is not None


@step("claim-window")
def claim(model: str, window: str, run: str, actor: str, reason: str) -> bool:
    """Write the intent before acting; False when another live run already acts on this window.

    The intent of a run whose process is certainly gone is closed first: what was killed may be
    continued at once.
    """
    now = datetime.now(UTC)
    close = partial(entries.orphan_closed, window=window, now=now, is_gone=is_gone, actor=actor)
    while journal.commit(model, close) is not None:
        pass
    intend = partial(
        entries.intended,
        window=window,
        run=run,
        process=identity(),
        now=now,
        actor=actor,
        reason=reason,
    )
    return journal.commit(model, intend) is not None


@step("finish-window")
def finish(
    model: str, window: str, run: str, actor: str, outcome: str, failed: bool = False
) -> None:
    """Close the intent, whatever came of it."""
    entry = entries.finished(window, run, actor, outcome, failed=failed)
    journal.commit(model, lambda _: entry)


@step("release-candidate")
def release_candidate(
    candidate: CandidateRef,
    engines: Sequence[EngineRef],
    reports: Sequence[GateReport],
    run_name: str,
    frozen: str | None = None,
    window: str = "",
) -> ReleaseRef:
    """Bundle graph, engines, scales and golden reports; sign; register as a model version.

    Args:
        candidate: What was built.
        engines: Its engines.
        reports: Their golden reports.
        run_name: Name of the registry's run.
        frozen: Key of what is kept of the traffic at hand; later windows are compared with it.
        window: Digest of the traffic that it was built for.
    """
    store, judged = settings().store(), Judged(candidate, engines, reports, window)
    prefix, model = candidate.key(""), open_model(candidate.model)
    files = {key.removeprefix(prefix): store.get(key) for key in store.list(prefix)}
    if frozen is not None:
        files[FROZEN] = store.get(frozen)
    facts = judged.facts(json.loads(files.pop("candidate.json")))
    release = write_release(store, candidate.model, files, facts, settings().signer())
    champion = history.champion_of(candidate.model)
    described = card(
        model,
        candidate,
        reports,
        window=window,
        champion=champion.version if champion else None,
        release=release.digest,
        store=settings().store_address,
    )
    version = register(
        settings().registry(),
        judged,
        files,
        digest=release.digest,
        run_name=run_name,
        flow_run=flow_run_id(),
        card=described,
    )
    for key in list(store.list(prefix)):
        store.delete(key)
    return ReleaseRef(candidate.model, version, release.digest)


@step("promote")
def promote(release: ReleaseRef, base: str | None, actor: str, reason: str) -> None:
    """Make a release champion, if the champion it was judged against still reigns.

    Raises `Refused` otherwise.
    """
    _promote(release, base, actor, reason)


@step("request-approval")
def request_approval(release: ReleaseRef, base: str | None, actor: str, reason: str) -> None:
    """Let a passing candidate wait for a person, as `challenger`."""
    entry = entries.approval_requested(release, base, actor, reason)
    journal.commit(release.model, lambda _: entry)
    journal.show(release.model)


@step("record-refusal")
def record_refusal(release: ReleaseRef, actor: str, reason: str, gates: Sequence[str]) -> None:
    """Note which gates refused a candidate."""
    entry = entries.refused(release, actor, reason, gates)
    journal.commit(release.model, lambda _: entry)
    journal.label_or_warn(release.model)


@step("request-retraining")
def request_retraining(
    model: str, window: SampleRef, source: str, decision: Decision, actor: str
) -> bool:
    """Ask for a new model, with the evidence; once per decision about a window and the weights."""
    ask = partial(
        entries.retraining_requested, window=window, source=source, decision=decision, actor=actor
    )
    return journal.commit(model, ask) is not None


@step("answer-approval")
def answer_approval(model: str, version: str, approve: bool, actor: str, reason: str) -> None:
    """Record a person's yes or no to a waiting candidate; answering the same twice acts once.

    Raises `Refused` when none waits, or the champion has changed since it was judged.
    """
    answer = partial(
        entries.answered,
        model=model,
        version=version,
        approve=approve,
        actor=actor,
        reason=reason,
    )
    journal.commit(model, answer)
    request = entries.last_request(journal.read(model), version)
    champion = history.champion_of(model)
    release = history.reference(model, request)
    if approve and request and release and (champion is None or champion.version != version):
        base = request.details.get("base")
        _promote(release, None if base is None else str(base), actor, reason)
    journal.show(model)


@step("roll-back")
def roll_back(model: str, to: str | None, actor: str, reason: str) -> ReleaseRef:
    """Make an earlier champion serve again; its bytes and signature are verified first."""
    shown = partial(journal.shown_champion, model)
    targets: list[ReleaseRef] = []  # of the attempt that won the race, the last

    def decide(past: Sequence[ledger.LedgerEntry]) -> Mapping[str, Json]:
        targets.append(require_intact(model, ledger.rollback_target(past, to)))
        return entries.rolled_back(targets[-1], shown, actor, reason)

    journal.commit(model, decide)
    journal.show(model)
    return targets[-1]


@step("reconcile")
def reconcile_model(model: str) -> Reconciliation:
    """Compare the registry's alias with the ledger, record what was done, bring both in step."""
    answers: list[Reconciliation] = []  # of the attempt that won the race, the last

    def decide(past: Sequence[ledger.LedgerEntry]) -> Mapping[str, Json] | None:
        shown = journal.shown_champion(model)
        checked = {} if shown is None else {shown: verification(model, shown)}
        answers.append(reconcile(past, shown, checked, journal.mark(model)))
        return answers[-1].record

    journal.commit(model, decide)
    if answers[-1].outcome is not AliasState.IN_STEP or answers[-1].mark:
        journal.project(model)
    journal.label_or_warn(model)
    return answers[-1]


def _promote(release: ReleaseRef, base: str | None, actor: str, reason: str) -> None:
    shown = partial(journal.shown_champion, release.model)
    decide = partial(
        entries.promoted, release=release, base=base, shown=shown, actor=actor, reason=reason
    )
    settings().release(release.model, release.digest)  # verified before it may serve
    journal.commit(release.model, decide)
    journal.show(release.model)
