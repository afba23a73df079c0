"""One model's ledger in the store: read, and appended to without losing a race (ADR 34)."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, overload
from uuid import uuid4

from infra.canonical import Json
from infra.chain import Chain, Link
from infra.errors import AlreadyExists, Unavailable
from infra.keys.seal import Seal
from infra.run_scope import once
from infra.settings import settings
from infra.stores import layout
from infra.stores.port import ObjectStore
from infra.stores.prefix_cache import PrefixCache
from tasks.promotion.ledger import REQUEST, LedgerEntry, parse, requested

RACES = 50
P = ParamSpec("P")
Decide = Callable[Concatenate[Sequence[LedgerEntry], P], Mapping[str, Json] | None]
"""Given the whole history, the entry to append, or None when there is nothing left to do."""
Write = Callable[Concatenate[Sequence[LedgerEntry], P], Mapping[str, Json]]
"""Given the whole history, the entry to append: there always is one."""


@contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile.

    Thousands of entries are made at once, none of which is garbage, and looking for some in a
    process that has loaded MLflow takes longer than making them.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Journal:
    """One model's chain, and the entries of those links of it that were read before."""

    def __init__(
        self,
        store: ObjectStore,
        model: str,
        cache: Path,
        seal: Seal | None = None,
        retain: timedelta | None = None,
    ) -> None:
        """Open the ledger; what is verified of it is kept in `cache`."""
        prefix = layout.ledger(model)
        kept = PrefixCache(cache, f"{store.url} {prefix}")
        self.chain = Chain(store, prefix, keep=True, cache=kept, seal=seal, retain=retain)
        self._entries: tuple[LedgerEntry, ...] = ()

    def read(self) -> tuple[LedgerEntry, ...]:
        """Return every entry, oldest first; raises `Tampered`."""
        with _uncollected():
            newer = self.chain.read()[len(self._entries) :]
            if newer:
                self._entries = (*self._entries, *parse(newer))
            return self._entries


def read(model: str) -> tuple[LedgerEntry, ...]:
    """Return every entry, oldest first; raises `Tampered`."""
    return open_journal(model).read()


def links(model: str) -> tuple[Link, ...]:
    """Return every link of the chain, oldest first, verified; raises `Tampered`."""
    with _uncollected():
        return open_journal(model).chain.read()


@overload
def commit(model: str, decide: Write[P], *args: P.args, **kwargs: P.kwargs) -> LedgerEntry: ...
@overload
def commit(
    model: str, decide: Decide[P], *args: P.args, **kwargs: P.kwargs
) -> LedgerEntry | None: ...
def commit(model: str, decide: Decide[P], *args: P.args, **kwargs: P.kwargs) -> LedgerEntry | None:
    """Append what `decide` answers, fenced by the head it reasoned on; a lost race decides again.

    `decide` is called with the history and the arguments that are given here. Returns the entry,
    or None when there was nothing to do; what `decide` raises passes through. Every entry carries
    the id of its request: a proxy that repeats a conditional write makes the second one lose
    against the first, which then is recognized as this call's own.
    """
    request = uuid4().hex
    for _ in range(RACES):
        entries = read(model)
        landed = requested(entries, request)
        if landed is not None:
            return landed
        body = decide(entries, *args, **kwargs)
        if body is None:
            return None
        body, request = _numbered(body, request)
        try:
            link = open_journal(model).chain.append(body, expect=len(entries))
        except AlreadyExists:
            continue
        return parse((link,))[0]
    raise Unavailable(
        f"the ledger of {model} lost {RACES} races in a row: fewer writers at once, then retry"
    )


def _numbered(body: Mapping[str, Json], request: str) -> tuple[Mapping[str, Json], str]:
    """Return the body with the id of its request, and that id: its own where it has one."""
    details = body["details"]
    assert isinstance(details, Mapping)  # noqa: S101  # for mypy: `ledger.body` makes it one
    named = {REQUEST: request, **details}
    return {**body, "details": named}, str(named[REQUEST])


def faults(model: str) -> Iterator[str]:
    """Yield what is wrong with a ledger, a sentence each: chain, signatures, strays."""
    return open_journal(model).chain.faults()


def strays(model: str) -> tuple[str, ...]:
    """Return the objects in a ledger's folder that are no entries."""
    return open_journal(model).chain.strays()


def open_journal(model: str) -> Journal:
    """Return the model's ledger; within a run the same one, which keeps what it verified."""
    chosen = settings()
    store, cache = chosen.store(), chosen.root / "verified" / f"{model}.ledger"
    seal, days = Seal(chosen.signer, chosen.verifier), chosen.ledger_lock_days
    retain = None if days is None else timedelta(days=days)
    open_it = partial(Journal, store, model, cache, seal, retain)
    return once("ledger", store.url, model, open_it=open_it)
