"""All ledgers together: an index in the workspace finds entries, and the store shows them.

A ledger's entries are verified once, and from then on what is appended. Whether an earlier entry
was written anew is asked of the store by listing: of a short ledger for every page, of long ones
beside the pages, one after the other.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from queue import SimpleQueue
from typing import TypeVar

from flows.queries.console.ledgers import ledgers
from infra.canonical import canonical, sha256
from infra.chain import Chain, Link
from infra.errors import Unavailable
from infra.identifiers import Digest
from infra.settings import settings
from infra.stores import layout
from infra.stores.entry_table import EntryRow, EntryTable, LogHead, RowFilter
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import EntryKind, LedgerEntry

LONG = 200
"""The folder of a ledger with no more entries is listed for every page."""
RELISTED_S = 60.0
"""A longer one is listed again after so long, beside the pages."""
PACE = 10.0
"""How long that waits after a listing: so many times what it took."""
PATIENCE_S = 2.0
"""How long a page waits for ledgers that were never read in this workspace."""
READERS = 16
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REIGNS = (EntryKind.PROMOTED.value, EntryKind.ROLLED_BACK.value)
T = TypeVar("T")
Placed = tuple[str, LedgerEntry]
"""A model, and an entry of its ledger."""
Row = tuple[str, EntryRow]
"""A model, and where an entry of its ledger is found."""


@dataclass(frozen=True, slots=True)
class Readable:
    """Of which models the entries are known, and why not of the others."""

    models: tuple[str, ...]
    heads: dict[str, LogHead]  # model -> its newest entry; none of an empty ledger
    unreadable: dict[str, str]  # model -> a sentence


class Background:
    """One thread, which does one thing after the other and ends with its process at any moment."""

    def __init__(self, name: str) -> None:
        """Begin at the first thing to do."""
        self._name = name
        self._lock = threading.Lock()
        self._queue: SimpleQueue[tuple[Callable[[], None], Future[None]]] = SimpleQueue()
        self._is_begun = False

    def submit(self, act: Callable[[], None]) -> Future[None]:
        """Do something later, in the context of now; return what tells its end."""
        coming: Future[None] = Future()
        self._queue.put((partial(copy_context().run, act), coming))
        with self._lock:
            if not self._is_begun:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
                self._is_begun = True
        return coming

    def _work(self) -> None:
        while True:
            act, coming = self._queue.get()
            try:
                act()
            except Exception as error:  # whoever waits for it is told
                coming.set_exception(error)
            else:
                coming.set_result(None)


class LedgerIndex:
    """The index of this process's workspace."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: dict[str, EntryTable] = {}
        self._listed: dict[tuple[str, str], float] = {}  # by the monotonic clock
        self._coming: dict[tuple[str, str], Future[None]] = {}
        self._reader, self._lister = Background("indexing"), Background("listing")

    def readable(self, models: Sequence[str], patience_s: float = PATIENCE_S) -> Readable:
        """Bring the index up to date; what is bad of one ledger hides no other."""
        until, heads = time.monotonic() + patience_s, self._table().heads()
        unreadable: dict[str, str] = {}
        for model in models:
            try:
                self._bring_up(model, heads.get(model), until)
            except Exception as error:  # whatever it is, the other ledgers are shown
                unreadable[model] = str(error) or repr(error)
        known = tuple(name for name in models if name not in unreadable)
        heads = self._table().heads()
        return Readable(known, {name: heads[name] for name in known if name in heads}, unreadable)

    def require(self, model: str) -> None:
        """Bring the index of one model up to date, however long it takes.

        Raises whatever is wrong with its ledger.
        """
        self._bring_up(model, self._table().heads().get(model), float("inf"))

    def long_ones(self, models: Sequence[str]) -> list[str]:
        """Return the models whose ledgers are too long to be read whole for a glance."""
        store, heads = settings().store(), self._table().heads()
        return [
            model
            for model in models
            if (heads[model].number > LONG if model in heads else False)
            or store.exists(layout.LEDGER.key(model=model, number=f"{LONG + 1:08d}"))
        ]

    def count(self, wanted: RowFilter) -> int:
        """Return how many entries a filter lets through."""
        return self._table().count(wanted)

    def rows(self, wanted: RowFilter) -> Iterator[Row]:
        """Yield (model, row) of all that a filter lets through, newest first."""
        return self._table().rows(wanted)

    def page(
        self, wanted: RowFilter, offset: int, most: int
    ) -> tuple[list[Placed], dict[str, str]]:
        """Return entries as the store has them, newest first, and what cannot be trusted."""
        shown: list[Placed] = []
        unreadable: dict[str, str] = {}
        rows = self._table().page(wanted, offset, most)
        for (model, _), entry in zip(rows, _overlapped(self._entry_or_error, rows), strict=True):
            if isinstance(entry, LedgerEntry):
                shown.append((model, entry))
            else:
                unreadable[model] = str(entry) or repr(entry)
        return shown, unreadable

    def entries(self, rows: Sequence[Row]) -> list[LedgerEntry]:
        """Return the entries of rows as the store has them; raises `Tampered`, `Unavailable`."""
        return _overlapped(self._entry, rows)

    def acts(self, model: str, until: int | None = None) -> tuple[LedgerEntry, ...]:
        """Return what happened to a model but for decisions about windows, oldest first."""
        return tuple(map(_act, self._table().with_details(model, until)))

    def decisions(self, model: str, most: int) -> tuple[LedgerEntry, ...]:
        """Return the newest decisions about windows, oldest first; raises `Tampered`."""
        wanted = RowFilter((model,), kind=EntryKind.DECIDED.value)
        return tuple(self.entries(self._table().page(wanted, 0, most)))[::-1]

    def champions(self, models: Sequence[str], until: int | None = None) -> dict[str, str]:
        """Return model -> the version that served at a moment, as it was registered then."""
        table, wanted = self._table(), RowFilter(models, until=until)
        serving = {model: row.version for model, row in table.newest(wanted, REIGNS).items()}
        for model in table.newest(wanted, [EntryKind.REGISTERED.value]):
            reign = ledger.champion(self.acts(model, until))
            serving[model] = reign.version if reign else None
        return {model: version for model in models if (version := serving.get(model))}

    def _bring_up(self, model: str, head: LogHead | None, until: float) -> None:
        if head is None:
            self._wait_for_first(model, until)
        elif head.number <= LONG:
            self._compare(model, head)
        else:
            self._take_in(model, head)
            self._list_soon(model)

    def _wait_for_first(self, model: str, until: float) -> None:
        """Read a whole ledger; raise `Unavailable` where that takes longer than `until`."""
        key = (settings().store().url, model)
        with self._lock:
            coming = self._coming.get(key)
            if coming is None or coming.done():
                coming = self._reader.submit(partial(self._list, model))
                self._coming[key] = coming
        left = until - time.monotonic()
        try:
            coming.result(None if left == float("inf") else max(0.0, left))
        except TimeoutError as error:
            if coming.done():
                raise
            raise Unavailable("it is read for the first time: reload in a moment") from error

    def _list_soon(self, model: str) -> None:
        key, now = (settings().store().url, model), time.monotonic()
        with self._lock:
            if now - self._listed.get(key, -RELISTED_S) < RELISTED_S:
                return
            self._listed[key] = now
        self._lister.submit(partial(self._list_slowly, model))

    def _list_slowly(self, model: str) -> None:
        began = time.monotonic()
        with suppress(Exception):  # the next page says what cannot be read
            self._list(model)
        time.sleep(PACE * (time.monotonic() - began))

    def _list(self, model: str) -> None:
        self._compare(model, self._table().heads().get(model))

    def _compare(self, model: str, head: LogHead | None) -> None:
        """List a ledger's folder; read and verify where it is not what the index knows."""
        chain = journal.open_journal(model).chain
        stamps = chain.stamps()
        if head is None or not _is_as_verified(chain, head, stamps):
            self._read_whole(model, stamps)
            return
        stamped = replace(head, stamped=head.number, stamps=_digest(stamps[: head.number]))
        if stamped != head:
            self._table().append(model, stamped, ())
        self._take_in(model, stamped)

    def _read_whole(self, model: str, stamps: Sequence[str]) -> None:
        try:
            links = journal.links(model)
            rows = _rows(links)
        except Exception:
            self._table().forget(model)
            raise
        if not links:
            self._table().forget(model)
            return
        stamped = min(len(stamps), len(links))
        self._table().replace(model, _head(links[-1], stamped, _digest(stamps[:stamped])), rows)

    def _take_in(self, model: str, head: LogHead) -> None:
        """Verify and keep what was appended."""
        known = Link(head.number, "", "", head.digest, {}, head.key, head.signature)
        newer = journal.open_journal(model).chain.after(known)
        if newer:
            self._table().append(model, _head(newer[-1], head.stamped, head.stamps), _rows(newer))

    def _entry(self, place: Row) -> LedgerEntry:
        model, row = place
        link = journal.open_journal(model).chain.entry(row.number)
        if link.digest != row.digest:
            self._table().forget(model)  # the next page reads and verifies it anew
            raise Unavailable(f"entry {row.number} of {model} changed meanwhile: reload the page")
        return ledger.parse((link,))[0]

    def _entry_or_error(self, place: Row) -> LedgerEntry | Exception:
        try:
            return self._entry(place)
        except Exception as error:  # whatever it is, the other entries are shown
            return error

    def _table(self) -> EntryTable:
        chosen = settings()
        name = sha256(chosen.store().url.encode())[:16]
        path = chosen.root / "verified" / f"ledgers-{name}.sqlite"
        with self._lock:
            return self._tables.setdefault(str(path), EntryTable(path))


def acts_of(model: str) -> Sequence[LedgerEntry]:
    """Return what happened to a model, oldest first, with or without decisions about windows.

    A long ledger is not read whole for that. Raises `Tampered`, `Unavailable`.
    """
    if not index.long_ones([model]):
        return ledgers.entries(model)
    index.require(model)
    return index.acts(model)


def microseconds(moment: datetime) -> int:
    """Return a moment as rows have it."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment_of_row(row: EntryRow) -> datetime:
    """Return when an entry was written."""
    return EPOCH + timedelta(microseconds=row.time)


def _is_as_verified(chain: Chain, head: LogHead, stamps: Sequence[str]) -> bool:
    """Return whether a listing shows what the index holds.

    What was appended since the last listing is read again: its stamps were not known.
    """
    if len(stamps) < head.number or _digest(stamps[: head.stamped]) != head.stamps:
        return False
    newer = [chain.entry(number) for number in range(head.stamped + 1, head.number + 1)]
    joined = all(after.previous == before.digest for before, after in pairwise(newer))
    return joined and (not newer or newer[-1].digest == head.digest)


def _digest(stamps: Sequence[str]) -> str:
    return sha256("\n".join(stamps).encode())


def _head(newest: Link, stamped: int, stamps: str) -> LogHead:
    return LogHead(newest.number, newest.digest, newest.key, newest.signature, stamped, stamps)


def _rows(links: Sequence[Link]) -> list[EntryRow]:
    """Return rows; of decisions, which are many and long, the store alone has the details."""
    return [
        EntryRow(
            entry.number,
            microseconds(entry.time),
            entry.kind.value,
            entry.actor,
            entry.reason,
            entry.version,
            entry.release,
            entry.digest,
            None if entry.kind is EntryKind.DECIDED else canonical(entry.details).decode(),
        )
        for entry in ledger.parse(links)
    ]


def _act(row: EntryRow) -> LedgerEntry:
    return LedgerEntry(
        row.number,
        moment_of_row(row),
        EntryKind(row.kind),
        row.actor,
        row.reason,
        row.version,
        None if row.release is None else Digest(row.release),
        json.loads(row.details or "{}"),
        row.digest,
    )


def _overlapped(read: Callable[[Row], T], rows: Sequence[Row]) -> list[T]:
    """Read several at once: a store elsewhere answers each in milliseconds."""
    if len(rows) < READERS:
        return [read(row) for row in rows]
    context = copy_context()
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda row: context.copy().run(read, row), rows))


index = LedgerIndex()
"""That of this process."""
