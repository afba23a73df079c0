"""The ledger projected onto the registry's aliases and tags, and compared with them (ADR 34)."""

import json
import logging
from collections.abc import Mapping, Sequence

from infra.canonical import Json
from infra.errors import NotFound, RequantError, Unavailable
from infra.settings import settings
from infra.stores import layout
from tasks.promotion import journal
from tasks.promotion.ledger import LedgerEntry, aliases, champion, labels
from tasks.promotion.reconcile import AliasState, Reconciliation, reconcile
from tasks.promotion.verification import verification


def compare(model: str, entries: Sequence[LedgerEntry]) -> Reconciliation:
    """Compare the alias `champion`, as the registry shows it now, with the ledger's history."""
    shown = shown_champion(model)
    checked = {} if shown is None else {shown: verification(model, shown)}
    return reconcile(entries, shown, checked, mark(model))


def record_comparison(model: str) -> Reconciliation:
    """Compare the alias with the ledger and append what that asks for; return the comparison."""
    comparisons: list[Reconciliation] = []  # of the attempt that won the race, the last

    def decide(entries: Sequence[LedgerEntry]) -> Mapping[str, Json] | None:
        comparisons.append(compare(model, entries))
        return comparisons[-1].record

    journal.commit(model, decide)
    return comparisons[-1]


def follow(model: str, comparison: Reconciliation) -> None:
    """Bring the registry in step after a comparison was recorded."""
    if comparison.outcome is not AliasState.IN_STEP or comparison.mark:
        project(model)
    label_or_warn(model)


def project(model: str) -> None:
    """Make the registry's aliases show what the ledger says, then note that they do."""
    for _ in range(journal.RACES):
        entries = journal.read(model)
        _show_aliases(model, aliases(entries))
        # Otherwise a newer entry may have been projected before this one.
        if len(journal.read(model)) == len(entries):
            reigning = champion(entries)
            note_mark(model, reigning.number if reigning else 0)
            return
    raise Unavailable(
        f"the aliases of {model} lost {journal.RACES} races in a row: "
        f"run `requant reconcile {model}`"
    )


def label(model: str) -> None:
    """Tag each version with what the ledger last said about it; only what differs is written."""
    registry, wanted = settings().registry(), labels(journal.read(model))
    for version in registry.versions(model):
        tags = wanted.get(version.version, {})
        registry.set_tags(
            model,
            version.version,
            {name: value for name, value in tags.items() if version.tags.get(name) != value},
        )


def show(model: str) -> None:
    """Bring the registry in step: aliases, by which others load, and tags, which are for people."""
    project(model)
    label_or_warn(model)


def label_or_warn(model: str) -> None:
    """Tag the versions; a failure is logged, and the next reconciliation sets the tags.

    The ledger holds already.
    """
    try:
        label(model)
    except RequantError as exc:
        logging.getLogger(__name__).warning(
            "the next reconciliation tags the versions of %s: %s", model, exc
        )


def _show_aliases(model: str, wanted: Mapping[str, str | None]) -> None:
    registry = settings().registry()
    present = registry.aliases(model)
    for alias, version in wanted.items():
        if version is None and alias in present:
            registry.delete_alias(model, alias)
        elif version is not None and present.get(alias) != version:
            registry.set_alias(model, alias, version)


def shown_champion(model: str) -> str | None:
    """Return the version that the alias `champion` shows in the registry."""
    return settings().registry().aliases(model).get("champion")


def mark(model: str) -> int:
    """Return the number of the promotion that the aliases last showed; 0 when none was noted."""
    try:
        return int(json.loads(settings().store().get(layout.projection(model)))["number"])
    except NotFound:
        return 0


def note_mark(model: str, number: int) -> None:
    """Note that the aliases show this number's promotion; a late writer never turns it back."""
    if number > mark(model):
        settings().store().put(
            layout.projection(model), json.dumps({"version": 1, "number": number}).encode()
        )
