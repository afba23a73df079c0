"""The steps of promotion: release, promote, approve, roll back, reconcile, and a run's notes."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from infra.canonical import Json
from infra.identifiers import RunId
from infra.liveness.process import identity, is_gone
from infra.registry.numbers import Numbers
from infra.releases import write_release
from infra.settings import settings
from infra.weights.naming import weight_files
from tasks.models.catalog import open_model
from tasks.promotion import candidate_store, entries, history, journal, ledger, projection
from tasks.promotion.acts import promoting, reconciling
from tasks.promotion.card import card
from tasks.promotion.reconcile import Reconciliation
from tasks.promotion.release import Judged, register
from tasks.promotion.serving import deliveries
from tasks.records import Decision, ReleaseRef, SampleRef, ThinWindow
from tasks.step import step


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
    entry = journal.commit(model, entries.decided, decision, window, champion, basis, actor)
    return entry is not None


@step("claim-window")
def claim(model: str, window: str, run: RunId, actor: str, reason: str) -> bool:
    """Write the intent before acting; False when another live run already acts on this window.

    The intent of a run whose process is certainly gone is closed first: what was killed may be
    continued at once.
    """
    now = datetime.now(UTC)
    while journal.commit(model, entries.orphan_closed, window, now, is_gone, actor) is not None:
        pass
    entry = journal.commit(model, entries.intended, window, run, identity(), now, actor, reason)
    return entry is not None


@step("finish-window")
def finish(
    model: str, window: str, run: RunId, actor: str, outcome: str, failed: bool = False
) -> None:
    """Close the intent, whatever came of it."""
    journal.commit(model, entries.finished, window, run, actor, outcome, failed=failed)


@step("release-candidate")
def release_candidate(judged: Judged, run_name: str, frozen: str | None = None) -> ReleaseRef:
    """Bundle graph, engines, scales and golden reports; sign; register as a model version.

    `run_name` names the registry's run. `frozen` is the key of what is kept of the traffic at hand:
    later windows are compared with it.
    """
    store, model = settings().store(), open_model(judged.candidate.model)
    prepared = model.layout.preprocess_digest if model.layout else ""
    bundle = judged.bundle(candidate_store.read_files(judged.candidate, frozen), prepared)
    named = {file for data in bundle.files.values() for file in weight_files(data)}
    with settings().weights().published(named):
        release = write_release(store, model.name, bundle.files, bundle.facts, settings().signer())
    champion = history.champion_of(model.name)
    described = card(model, judged, champion, release.digest, settings().store_address)
    taken = Numbers(highest=ledger.highest_number(journal.read(model.name)))
    registry = settings().registry()
    version = register(registry, judged, bundle, release.digest, run_name, described, taken)
    candidate_store.remove_files(judged.candidate)
    return ReleaseRef(model.name, version, release.digest)


@step("promote")
def promote(release: ReleaseRef, base: str | None, actor: str, reason: str) -> None:
    """Make a release champion; see `acts.promoting.promote`."""
    promoting.promote(release, base, actor, reason)


@step("start-delivery")
def start_delivery(
    release: ReleaseRef, base: str | None, shares: Sequence[float], actor: str, reason: str
) -> None:
    """Let a passing candidate take traffic over step by step, as the gateway judges it."""
    journal.commit(release.model, deliveries.started, release, base, shares, actor, reason)
    projection.label_or_warn(release.model)


@step("request-approval")
def request_approval(
    release: ReleaseRef, base: str | None, actor: str, reason: str, policy: str = "manual"
) -> None:
    """Let a passing candidate wait for a person, as `challenger`; `policy` is the spec's."""
    journal.commit(release.model, entries.approval_requested, release, base, actor, reason, policy)
    projection.show(release.model)


@step("record-refusal")
def record_refusal(release: ReleaseRef, actor: str, reason: str, gates: Sequence[str]) -> None:
    """Note which gates refused a candidate."""
    journal.commit(release.model, entries.refused, release, actor, reason, gates)
    projection.label_or_warn(release.model)


@step("request-retraining")
def request_retraining(
    model: str, window: SampleRef, source: str, decision: Decision, actor: str
) -> bool:
    """Ask for a new model, with the evidence; once per decision about a window and the weights."""
    write = entries.retraining_requested
    return journal.commit(model, write, window, source, decision, actor) is not None


@step("answer-approval")
def answer_approval(model: str, version: str, approve: bool, actor: str, reason: str) -> None:
    """Record a person's yes or no to a waiting candidate; see `acts.promoting.answer`."""
    promoting.answer(model, version, approve, actor, reason)


@step("roll-back")
def roll_back(model: str, to: str | None, actor: str, reason: str, request: str) -> ReleaseRef:
    """Make an earlier champion serve again; see `acts.promoting.roll_back`."""
    return promoting.roll_back(model, to, actor, reason, request)


@step("reconcile")
def reconcile_model(model: str) -> Reconciliation:
    """Bring registry and ledger in step; see `acts.reconciling.reconcile`."""
    return reconciling.reconcile(model)
