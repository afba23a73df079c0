"""One model's ledger in the store, projected onto the registry's aliases and tags (ADR 34)."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence

from infra.canonical import Json
from infra.chain import Chain
from infra.errors import AlreadyExists, NotFound, RequantError, Unavailable
from infra.run_scope import once
from infra.settings import settings
from infra.stores import layout
from tasks.promotion.ledger import LedgerEntry, aliases, champion, labels, parse

RACES = 50
Decide = Callable[[Sequence[LedgerEntry]], Mapping[str, Json] | None]
"""Given the whole history, the entry to append, or None when there is nothing left to do."""


def read(model: str) -> tuple[LedgerEntry, ...]:
    """Return every entry, oldest first; raises `Tampered`."""
    return parse(_chain(model).read())


def commit(model: str, decide: Decide) -> LedgerEntry | None:
    """Append what `decide` answers, fenced by the head it reasoned on; a lost race decides again.

    Returns the entry, or None when there was nothing to do; what `decide` raises passes through.
    """
    for _ in range(RACES):
        entries = read(model)
        body = decide(entries)
        if body is None:
            return None
        try:
            link = _chain(model).append(body, expect=len(entries))
        except AlreadyExists:
            continue
        return parse((link,))[0]
    raise Unavailable(
        f"the ledger of {model} lost {RACES} races in a row: fewer writers at once, then retry"
    )


def project(model: str) -> None:
    """Make the registry's aliases show what the ledger says, then note that they do."""
    for _ in range(RACES):
        entries = read(model)
        _show_aliases(model, aliases(entries))
        if len(read(model)) == len(
            entries
        ):  # otherwise a newer entry may have been projected before this one
            reigning = champion(entries)
            note_mark(model, reigning.number if reigning else 0)
            return
    raise Unavailable(
        f"the aliases of {model} lost {RACES} races in a row: run `requant reconcile {model}`"
    )


def label(model: str) -> None:
    """Tag each version with what the ledger last said about it; only what differs is written."""
    registry, wanted = settings().registry(), labels(read(model))
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


def _chain(model: str) -> Chain:
    """Return the ledger's chain; within a run the same one, which keeps what it verified."""
    store = settings().store()
    return once(
        "ledger", store.url, model, open_it=lambda: Chain(store, layout.ledger(model), keep=True)
    )
