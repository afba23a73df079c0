"""What people look at first: models, histories, reports. Reads only, and loads nothing slow."""

from dataclasses import dataclass

from infra.errors import NotFound
from infra.settings import settings
from infra.stores import layout
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.specs.registration import current_digest, current_spec, model_names


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model at a glance."""

    name: str
    task: str
    champion: LedgerEntry | None
    previous: LedgerEntry | None
    last_decision: LedgerEntry | None
    waiting: tuple[LedgerEntry, ...]  # approvals, and what was approved and not yet promoted
    schedule: str  # cron, with its time zone


def all_models() -> list[ModelView]:
    """Return every registered model, by name."""
    return [one_model(name) for name in model_names(settings().store())]


def one_model(name: str) -> ModelView:
    """Return one model; raise `NotFound`."""
    spec = current_spec(name)
    entries = journal.read(name)
    decisions = [entry for entry in entries if entry.kind is EntryKind.DECIDED]
    return ModelView(
        name=name,
        task=spec.task.value,
        champion=ledger.champion(entries),
        previous=ledger.previous(entries),
        last_decision=decisions[-1] if decisions else None,
        waiting=(*ledger.pending_approvals(entries), *ledger.cut_off_approvals(entries)),
        schedule=str(spec.schedule),
    )


def history(name: str) -> tuple[LedgerEntry, ...]:
    """Return the whole ledger, oldest first; raise `NotFound` and `Tampered`."""
    current_digest(name)
    return journal.read(name)


def report_page(key: str) -> bytes:
    """Return a stored drift report; raise `NotFound`."""
    if layout.REPORT.fields(key) is None:
        raise NotFound(f"{key} is no report")
    return settings().store().get(key)
