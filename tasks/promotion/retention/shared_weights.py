"""Removing files of weights that no graph names any more.

They are shared by registrations, candidates and releases of all models, so all of these are read. A
name anywhere in their bytes keeps a file. Nothing goes while a run may be at work, nor what is
young: weights are written before the graph that names them.
"""

from __future__ import annotations

import math
import mmap
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from infra.liveness.process import is_gone
from infra.settings import settings
from infra.stores import layout
from infra.stores.port import Listed
from infra.weights.going import announced
from infra.weights.naming import PREFIX
from tasks.promotion import journal, ledger
from tasks.promotion.entries import LEASE
from tasks.promotion.ledger import LedgerEntry
from tasks.specs.registration import model_names

YOUNGEST = timedelta(hours=1)
"""Whoever exports or quantizes writes the graph within this time after its last weight."""
_NAME = re.compile(rb"%b([0-9a-f]{64})" % PREFIX.encode())
_REFERRERS = (layout.REGISTRATION, layout.CANDIDATE, layout.RELEASE)
_IN_MEMORY = 1 << 26  # bytes; larger objects are searched in a file


@dataclass(frozen=True, slots=True)
class CollectedWeights:
    """Which files of weights a collection removed, or would remove."""

    dry_run: bool
    files: int  # that no graph names
    bytes: int  # of them, here and in the store; a file under two names counts once
    kept: int  # files in the store that stay
    at_work: tuple[str, ...] = ()  # models that a run may be at work on: then nothing goes


def collect_weights(age: timedelta, *, dry_run: bool) -> CollectedWeights:
    """Remove the weights that no registration, candidate or release names; say what was freed.

    The store's go, and those of this host's workspace, if they are older than `age` and an hour.
    So do checkpoints here whose derivation was ended, and that nobody went on with since.
    Raises `Tampered` for a ledger that cannot be trusted, `Unavailable`.
    """
    done = _collected(age, dry_run=dry_run)
    if done.at_work:
        return done
    files, size = _ended_derivations(datetime.now(UTC) - max(age, YOUNGEST), dry_run=dry_run)
    return replace(done, files=done.files + files, bytes=done.bytes + size)


def _collected(age: timedelta, *, dry_run: bool) -> CollectedWeights:
    stored, cached = _stored(), _cached()
    if not (stored or cached):
        return CollectedWeights(dry_run, 0, 0, 0)
    standing, at_work = _standing(), _at_work()
    if at_work:
        return CollectedWeights(dry_run, 0, 0, len(stored), at_work)
    before = datetime.now(UTC) - max(age, YOUNGEST)
    modified = {digest: _modified(path) for digest, path in cached.items()}
    for digest, item in stored.items():
        modified[digest] = max(item.modified, modified.get(digest, item.modified))
    old = {digest for digest, moment in modified.items() if moment < before}
    if not old:
        return CollectedWeights(dry_run, 0, 0, len(stored))
    said = nullcontext(math.inf) if dry_run else announced(settings().store(), old)
    with said as end:
        going = sorted(old - set(_named()))
        at_work = _changed(standing, _standing())  # reading all graphs takes its time
        if at_work:
            return CollectedWeights(dry_run, 0, 0, len(stored), at_work)
        sizes = [
            stored[digest].size if digest in stored else cached[digest].stat().st_size
            for digest in going
        ]
        if not dry_run:
            del going[_removed(going, cached, before, end) :]
    left = len(stored.keys() - set(going))
    return CollectedWeights(dry_run, len(going), sum(sizes[: len(going)]), left)


def _ended_derivations(before: datetime, *, dry_run: bool) -> tuple[int, int]:
    """Remove checkpoints that were begun and left; return how many files that were, and bytes."""
    files = size = 0
    for folder in (settings().root / "cache").glob("*/derivations/*"):
        held = [path for path in folder.rglob("*") if path.is_file()]
        if not held or max(map(_modified, held)) >= before:
            continue
        files, size = files + len(held), size + sum(path.stat().st_size for path in held)
        if not dry_run:
            shutil.rmtree(folder, ignore_errors=True)
    return files, size


def _stored() -> dict[str, Listed]:
    """Return the files in the store by the digest that names them."""
    listed = settings().store().listed(layout.WEIGHT.prefix())
    keyed = ((layout.WEIGHT.fields(item.key), item) for item in listed)
    return {fields["digest"]: item for fields, item in keyed if fields is not None}


def _cached() -> dict[str, Path]:
    """Return the files in this host's workspace by the digest that names them."""
    folder = settings().weights().folder
    return {path.name.removeprefix(PREFIX): path for path in folder.glob(f"{PREFIX}*")}


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _standing() -> Mapping[str, tuple[int, int]]:
    """Return of each model how many entries and objects of registrations it has."""
    store = settings().store()
    parsed = (layout.REGISTRATION.fields(key) for key in store.list(layout.REGISTRATION.prefix()))
    registered = Counter(fields["model"] for fields in parsed if fields is not None)
    names = {*registered, *model_names(store)}
    return {name: (len(journal.read(name)), registered[name]) for name in sorted(names)}


def _changed(
    before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]
) -> tuple[str, ...]:
    """Return the models of which something was written meanwhile: it may name what is going."""
    return tuple(model for model in after if after[model] != before.get(model))


def _at_work() -> tuple[str, ...]:
    """Return the models that a run may be at work on: their weights may not be named yet."""
    return tuple(
        model
        for model in model_names(settings().store())
        if ledger.unfinished_intents(journal.read(model), _may_live)
    )


def _may_live(intent: LedgerEntry) -> bool:
    lasts = datetime.now(UTC) < intent.time + LEASE
    return lasts and not is_gone(intent.details.get("process"))


def _named() -> Iterator[str]:
    """Yield the digests of weights that what is registered, tried or released names."""
    for kind in _REFERRERS:
        for item in settings().store().listed(kind.prefix()):
            if kind.fields(item.key) is not None:
                yield from _named_by(item)


def _named_by(item: Listed) -> Iterator[str]:
    store = settings().store()
    if item.size <= _IN_MEMORY:
        yield from (match[1].decode() for match in _NAME.finditer(store.get(item.key)))
        return
    with tempfile.TemporaryDirectory(dir=settings().root) as scratch:
        copy = Path(scratch) / "object"
        store.get_file(item.key, copy)
        with copy.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from (match[1].decode() for match in _NAME.finditer(data))


def _removed(
    digests: Sequence[str], cached: Mapping[str, Path], before: datetime, end: float
) -> int:
    """Remove weights until a monotonic time; return how many went.

    From the store first: what is only cached is never asked for again. What somebody takes over
    meanwhile stays here, for them to publish again.
    """
    for number, digest in enumerate(digests):
        if time.monotonic() > end:
            return number
        settings().store().delete(layout.WEIGHT.key(digest=digest))
        path = cached.get(digest)
        if path is not None and path.exists() and _modified(path) < before:
            path.unlink(missing_ok=True)
    return len(digests)
