"""What follows from verified ledgers, kept while their objects in the store stay the same."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from infra.canonical import canonical, sha256
from infra.settings import settings
from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks.promotion import journal
from tasks.promotion.ledger import LedgerEntry

T = TypeVar("T")
MOST = 4096
"""Values that are kept, of all models together."""
WHOLE = 20_000
"""Entries that are kept of all ledgers together, but for the ledger that was asked for last."""
ENTRIES = "entries"
"""The name of a whole ledger among what is kept."""
SHORT = 1000
"""The folder of a ledger with no more entries is listed for every page."""
RARELY, LONGEST_S = 50, 60.0
"""A longer listing is made again after so many times what it took, and after a minute at most."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A ledger's folder as it was listed."""

    stamps: str  # digest of the stamps of all of its objects
    newest: int  # number of the newest entry
    when: float  # by the monotonic clock
    took: float  # s

    def is_due(self) -> bool:
        """Return whether the folder is to be listed again, and not only asked for what is new."""
        wait = min(LONGEST_S, RARELY * self.took)
        return self.newest <= SHORT or time.monotonic() - self.when >= wait


@dataclass(frozen=True, slots=True)
class StampedValue:
    """A value, the stamps of the objects that it follows from, and how many entries it holds."""

    stamps: str
    value: object
    entries: int


class LedgerValues:
    """Values computed of whole ledgers, each once as long as nobody writes to the ledger.

    One listing of the ledger's folder tells whether any object of it changed: appended, removed or
    written anew. Only then is the ledger read and verified again. The folder of a long ledger
    is only asked for its next entry meanwhile: what was appended is seen at once, what was removed
    or written anew within a minute.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, str], StampedValue] = OrderedDict()
        self._listings: dict[tuple[str, str], Listing] = {}

    def entries(self, model: str) -> tuple[LedgerEntry, ...]:
        """Return every entry, oldest first; raises `Tampered`."""
        return self._value(model, ENTRIES, lambda: journal.read(model))

    def value(self, model: str, compute: Callable[[Sequence[LedgerEntry]], T]) -> T:
        """Return what a function makes of the ledger; its name tells it from others."""
        return self._value(model, compute.__qualname__, lambda: compute(self.entries(model)))

    def _value(self, model: str, name: str, make: Callable[[], T]) -> T:
        store = settings().store()
        stamps, key = self._stamps(store, model), (store.url, model, name)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept.stamps == stamps:
                self._kept.move_to_end(key)
                return cast(T, kept.value)
        made = make()  # what was appended since the listing is read again at the next
        with self._lock:
            held = len(made) if name == ENTRIES and isinstance(made, tuple) else 0
            self._kept[key] = StampedValue(stamps, made, held)
            self._kept.move_to_end(key)
            self._let_go()
        return made

    def _stamps(self, store: ObjectStore, model: str) -> str:
        """Return what changes whenever an object of the ledger does."""
        listed = self._listings.get((store.url, model))
        if listed is None or listed.is_due() or store.exists(_entry(model, listed.newest + 1)):
            listed = _listed(store, model)
            self._listings[store.url, model] = listed
        return listed.stamps

    def _let_go(self) -> None:
        """Keep whole ledgers of the models that were asked for last, and small values of many."""
        kept = 0
        for key, item in list(reversed(self._kept.items())):
            if item.entries and kept and kept + item.entries > WHOLE:
                del self._kept[key]
            else:
                kept += item.entries
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)


def _listed(store: ObjectStore, model: str) -> Listing:
    began = time.monotonic()
    stamps: Mapping[str, str] = store.stamps(f"{layout.ledger(model)}/")
    took = time.monotonic() - began
    known = filter(None, map(layout.LEDGER.fields, stamps))
    newest = max(
        (int(fields["number"]) for fields in known if fields["number"].isdecimal()), default=0
    )
    return Listing(sha256(canonical(dict(stamps))), newest, began, took)


def _entry(model: str, number: int) -> str:
    return layout.LEDGER.key(model=model, number=f"{number:08d}")


ledgers = LedgerValues()
"""Those of this process."""
