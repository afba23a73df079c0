"""What the store remembers of projections: the last that was complete, and those under way.

An alias call that is slow may arrive after a newer projection, its caller long gone. MLflow has no
conditional write that would refuse it. So a projection announces in the store what it is about to
set, before it last reads the ledger, and withdraws that once the aliases were read back. A
reconciliation that lists the announcements before it looks at the alias therefore knows every value
that may have come late.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from infra.canonical import Json, canonical
from infra.errors import NotFound
from infra.identifiers import Key
from infra.liveness.process import identity, is_gone
from infra.settings import settings
from infra.stores import layout

PATIENCE = timedelta(minutes=10)
"""How long a call of a process that is gone may still be on its way."""
LONGEST = timedelta(hours=2)
"""How long a projection may last of whose process nothing is known."""
_VERSION = 2  # 1: the registry itself was not told which entry its aliases show


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest complete projection."""

    number: int = 0  # of the entry that the aliases showed; 0: none was noted
    in_registry: bool = False  # whether the registry holds that number, too


def mark(model: str) -> Mark:
    """Return the newest complete projection that was noted."""
    try:
        noted = json.loads(settings().store().get(layout.projection(model)))
    except NotFound:
        return Mark()
    return Mark(int(noted["number"]), int(noted["version"]) >= _VERSION)


def note_mark(model: str, number: int) -> None:
    """Note that the aliases show this number's entry; a late writer never turns it back."""
    noted = mark(model)
    if number > noted.number or not noted.in_registry:
        number = max(number, noted.number)
        document: Json = {"version": _VERSION, "number": number}
        settings().store().put(layout.projection(model), canonical(document))


def announce(model: str, champion: str | None, key: Key | None = None) -> Key:
    """Note what the alias `champion` is about to be set to; return where, for the next attempt."""
    key = key or layout.projecting(model, uuid4().hex)
    document: Json = {
        "version": 1,
        "champion": champion,
        "process": identity(),
        "time": datetime.now(UTC).isoformat(),
    }
    settings().store().put(key, canonical(document))
    return key


def withdraw(key: Key) -> None:
    """Take back an announcement: the aliases were read back as they should be."""
    settings().store().delete(key)


def under_way(model: str) -> tuple[str | None, ...]:
    """Return every version that the alias `champion` may still be set to by a late call."""
    return tuple(champion for _, champion, _ in _announced(model))


def clear(model: str) -> int:
    """Remove the announcements whose calls can no longer arrive, and return how many."""
    gone = [key for key, _, is_over in _announced(model) if is_over]
    for key in gone:
        settings().store().delete(key)
    return len(gone)


def _announced(model: str) -> Iterator[tuple[Key, str | None, bool]]:
    store, now = settings().store(), datetime.now(UTC)
    for key in list(layout.PROJECTING.keys(store, model=model)):
        try:
            noted = json.loads(store.get(key))
        except NotFound:  # withdrawn meanwhile
            continue
        age = now - datetime.fromisoformat(noted["time"])
        patience = PATIENCE if is_gone(noted["process"]) else LONGEST
        yield key, noted["champion"], age > patience
