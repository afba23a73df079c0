"""What people look at first: models, histories, reports. Reads only, and loads nothing slow."""

from collections.abc import Sequence
from dataclasses import dataclass

from infra.errors import NotFound
from infra.settings import settings
from infra.stores import layout
from tasks.drift.report.library import with_library
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.promotion.serving.deliveries import open_delivery
from tasks.promotion.serving.incidents import open_incident
from tasks.specs.registration import current_digest, current_spec, model_names
from tasks.specs.spec import ModelSpec


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
    serving: str | None = None  # what is out of the ordinary while it is served
    problem: str | None = None  # why something of it cannot be read; None: everything can


def all_models() -> list[ModelView]:
    """Return every registered model, by name; what is bad of one hides no other."""
    return [_whatever_is_readable(name) for name in model_names(settings().store())]


def _whatever_is_readable(name: str) -> ModelView:
    try:
        return one_model(name)
    except Exception as error:  # whatever it is, the next model is shown
        problem = str(error) or repr(error)
    try:
        return _view(name, None, journal.read(name), problem)
    except Exception:  # its ledger, too, or rather than its registration
        return _view(name, _readable_spec(name), (), problem)


def _readable_spec(name: str) -> ModelSpec | None:
    try:
        return current_spec(name)
    except Exception:
        return None


def one_model(name: str) -> ModelView:
    """Return one model; raise `NotFound`."""
    return _view(name, current_spec(name), journal.read(name), None)


def _view(
    name: str, spec: ModelSpec | None, entries: Sequence[LedgerEntry], problem: str | None
) -> ModelView:
    decisions = [entry for entry in entries if entry.kind is EntryKind.DECIDED]
    champion = ledger.champion(entries)
    return ModelView(
        name=name,
        task=spec.task.value if spec else "unknown",
        champion=champion,
        previous=ledger.previous(entries),
        last_decision=decisions[-1] if decisions else None,
        waiting=(*ledger.pending_approvals(entries), *ledger.cut_off_approvals(entries)),
        schedule=str(spec.schedule) if spec else "none",
        serving=_serving(entries, champion),
        problem=problem,
    )


def _serving(entries: Sequence[LedgerEntry], champion: LedgerEntry | None) -> str | None:
    """Return in words what is out of the ordinary; None while the champion answers alone."""
    told = []
    incident = open_incident(entries, str(champion.release)) if champion else None
    if incident is not None:
        since = f"{incident.since:%Y-%m-%d %H:%M} UTC"
        told.append(f"{incident.to} answers since {since}: {incident.reason}")
    delivery = open_delivery(entries)
    if delivery is not None:
        since = f"{delivery.since:%Y-%m-%d %H:%M} UTC"
        told.append(
            f"version {delivery.version} is being delivered ({delivery.stage}) since {since}"
        )
    return "; ".join(told) or None


def history(name: str) -> tuple[LedgerEntry, ...]:
    """Return the whole ledger, oldest first; raise `NotFound` and `Tampered`."""
    current_digest(name)
    return journal.read(name)


def report_page(key: str) -> bytes:
    """Return a stored drift report with the script that it needs; raise `NotFound`, `Tampered`."""
    if layout.REPORT.fields(key) is None:
        raise NotFound(f"{key} is no report")
    return with_library(settings().store(), settings().store().get(key))
