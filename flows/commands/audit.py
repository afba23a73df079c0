"""`requant audit verify`: everything that a reviewer asks of the ledger and of what it names."""

from __future__ import annotations

from dataclasses import dataclass

from infra.errors import NotFound
from infra.settings import settings
from infra.stores import layout
from tasks.promotion.audit.faults import faults


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    model: str
    what: str  # one sentence


def verify(model: str | None = None) -> list[Fault]:
    """Return what is wrong with a model, or with all that have a ledger.

    Raises:
        NotFound: The model has no ledger.
        Unavailable: The store does not answer.
    """
    names = _with_ledger()
    if model is not None and model not in names:
        raise NotFound(f"There is no ledger of {model}: see `requant status` for the models.")
    of_access = [] if model else settings().directory().log.faults()
    return [
        *(Fault(name, what) for name in ([model] if model else names) for what in faults(name)),
        *(Fault("access", what) for what in of_access),
    ]


def _with_ledger() -> list[str]:
    """Return the models that have a ledger, also those whose registration is gone."""
    keys = settings().store().list(layout.LEDGER.prefix())
    return sorted({key.split("/")[1] for key in keys if key.count("/") >= 2})
