"""The registry rebuilt from what is not lost with it: the ledger and the bundles in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flows.measures import write_measures
from infra.errors import NotFound
from infra.settings import settings
from tasks.promotion import journal, projection
from tasks.promotion.acts.restoring import restore
from tasks.specs.registration import model_names


def restore_registry(model: str | None = None) -> Mapping[str, Sequence[str]]:
    """Register again what the registry lacks, and set the aliases; return what was done by model.

    Args:
        model: Name of a model with a ledger; None takes every registered one.

    Raises:
        NotFound: The model has no ledger.
        Tampered: The ledger lost entries.
        Unavailable: The registry or the store does not answer.
    """
    names = [model] if model else model_names(settings().store())
    return {name: _restored(name) for name in names}


def _restored(model: str) -> Sequence[str]:
    if not journal.read(model):
        raise NotFound(f"There is no ledger of {model}: see `requant status` for the models.")
    sentences = restore(model)
    projection.show(model)
    write_measures(model)
    return sentences or ("Nothing was missing.",)
