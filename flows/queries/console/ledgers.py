"""What follows from verified ledgers, kept while their objects in the store stay the same."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from infra.settings import settings
from infra.stores import layout
from tasks.promotion import journal
from tasks.promotion.ledger import LedgerEntry

T = TypeVar("T")
MOST = 4096
"""Values that are kept, of all models together."""
WHOLE = 4
"""Ledgers of which all entries are kept."""


@dataclass(frozen=True, slots=True)
class StampedValue:
    """A value, and the stamps of the objects that it follows from."""

    stamps: Mapping[str, str]
    value: object


class LedgerValues:
    """Values computed of whole ledgers, each once as long as nobody writes to the ledger.

    One listing of the ledger's folder tells whether any object of it changed: appended, removed or
    written anew. Only then is the ledger read and verified again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, str], StampedValue] = OrderedDict()

    def entries(self, model: str) -> tuple[LedgerEntry, ...]:
        """Return every entry, oldest first; raises `Tampered`."""
        return self._value(model, "entries", lambda: journal.read(model))

    def value(self, model: str, compute: Callable[[Sequence[LedgerEntry]], T]) -> T:
        """Return what a function makes of the ledger; its name tells it from others."""
        return self._value(model, compute.__qualname__, lambda: compute(self.entries(model)))

    def _value(self, model: str, name: str, make: Callable[[], T]) -> T:
        store = settings().store()
        stamps, key = store.stamps(f"{layout.ledger(model)}/"), (store.url, model, name)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept.stamps == stamps:
                self._kept.move_to_end(key)
                return cast(T, kept.value)
        made = make()  # what was appended since the listing is read again at the next
        with self._lock:
            self._kept[key] = StampedValue(stamps, made)
            self._kept.move_to_end(key)
            self._let_go()
        return made

    def _let_go(self) -> None:
        """Keep whole ledgers of the models that were asked for last, and small values of many."""
        whole = [key for key in self._kept if key[2] == "entries"]
        for key in whole[:-WHOLE]:
            del self._kept[key]
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)


ledgers = LedgerValues()
"""Those of this process."""
