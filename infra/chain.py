"""An append-only log on a store's create-if-absent.

Its entries name their predecessor's digest.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from infra.canonical import Json, canonical, sha256
from infra.errors import AlreadyExists, BadInput, Tampered, Unavailable
from infra.keys.seal import Seal
from infra.stores.port import ObjectStore
from infra.stores.prefix_cache import PrefixCache

_UNSIGNED, _SIGNED = 1, 2  # versions of an entry's format
_GENESIS = "0" * 64  # what the first entry names as its predecessor
_FIELDS = {"version", "number", "time", "previous", "digest", "body"}
_SEALED_FIELDS = _FIELDS | {"key", "signature"}
_NAME = re.compile(r"(\d{8,})\.json")
_ATTEMPTS = 100  # lost races in a row before an unfenced append gives up
_READERS = 16
_WORTH_KEEPING = 64  # entries that were read: a file of all is written for them
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """One verified entry."""

    number: int  # 1, 2, 3, ... without a gap
    time: str  # ISO 8601, UTC, of the writer's clock
    previous: str  # the digest of entry number - 1; 64 zeros for the first
    digest: str  # SHA-256 over canonical JSON of version, number, time, previous and body
    body: Mapping[str, Json]
    key: str | None = None  # the id of the key that signed it; None: it is not signed
    signature: str | None = None  # over the log's name and the digest, in base 64


def now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)


class Chain:
    """The log under one prefix: `PREFIX/00000001.json`, `PREFIX/00000002.json`, ...

    Creating entry N+1 where none stands is the only commit; its number is the fence. What a chain
    cannot show is that its newest entries were deleted: keep the head's number and digest elsewhere
    where that matters.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        clock: Callable[[], datetime] = now,
        *,
        keep: bool = False,
        cache: PrefixCache | None = None,
        seal: Seal | None = None,
        retain: timedelta | None = None,
    ) -> None:
        """Open the log.

        Args:
            store: Where it lies.
            prefix: The folder of its entries.
            clock: Tells the time of what is appended.
            keep: Read and list once, and then only ask what came after.
            cache: Keeps what was verified for other processes.
            seal: Signs what is appended, and checks the newest entry's signature: as each entry
                names the digest before it, that signature vouches for all before it.
            retain: How long the store is to let nobody delete or replace an entry, where it can.
        """
        self._store = store
        self._prefix = prefix.rstrip("/")
        self._clock = clock
        self._kept: tuple[Link, ...] | None = None
        self._keep = keep
        self._cache = cache
        self._seal = seal
        self._retain = retain

    def read(self) -> tuple[Link, ...]:
        """Return every entry, oldest first.

        Raises:
            Tampered: There is a gap, a wrong digest or a broken link.
        """
        if self._kept is not None:
            self._kept = self._with_newer(self._kept)
            return self._kept
        stamps = self.stamps()
        links = self._authentic(self._verified(stamps))
        if self._keep:
            self._kept = links
        return links

    def head(self) -> Link | None:
        """Return the newest entry, its own digest verified; raises `Tampered`."""
        if self._kept is not None:
            return next(reversed(self.read()), None)
        stamps = self.stamps()
        return self._authentic((self._read(len(stamps)),))[-1] if stamps else None

    def after(self, known: Link) -> tuple[Link, ...]:
        """Return what was appended after a link that was verified before, oldest first.

        Raises `Tampered`.
        """
        return self._with_newer((known,))[1:]

    def entry(self, number: int) -> Link:
        """Return one entry, its own digest verified; raises `NotFound`, `Tampered`."""
        return self._read(number)

    def require_there(self) -> None:
        """Raise `Unavailable` where the newest entry that was read is no longer stored.

        A reader that keeps what it read asks for the next entry alone, and finds none in a store
        that is gone.
        """
        if self._kept and not self._store.exists(self._key(self._kept[-1].number)):
            raise Unavailable(
                f"The entry {self._kept[-1].number} of {self._prefix}, which was read before, is "
                f"no longer in {self._store.url}: see that the store is there and whole; after a "
                "restored backup, start this process again."
            )

    def _with_newer(self, links: tuple[Link, ...]) -> tuple[Link, ...]:
        """Return the links with those that were appended since."""
        newest, newer = links[-1] if links else None, list[Link]()
        while self._store.exists(self._key((newest.number if newest else 0) + 1)):
            link = self._read((newest.number if newest else 0) + 1)
            _check_joint(newest, link, self._prefix)
            newer.append(link)
            newest = link
        return self._authentic((*links, *newer)) if newer else links

    def _authentic(self, links: tuple[Link, ...]) -> tuple[Link, ...]:
        """Return the links once the newest is signed by a trusted key.

        Entries of before the first signature count, as what follows vouches for them.
        """
        sealed = next((link for link in links if link.signature is not None), None)
        if self._seal is None or sealed is None:
            return links
        for link in links[sealed.number - links[0].number :]:
            if link.signature is None:
                raise Tampered(_unsigned(self._prefix, link, sealed))
        if not self._is_sealed(links[-1]):
            raise Tampered(self._forged(links[-1]))
        return links

    def _is_sealed(self, link: Link) -> bool:
        return (
            self._seal is not None
            and link.key is not None
            and link.signature is not None
            and self._seal.holds(self._prefix, link.digest, link.key, link.signature)
        )

    def _forged(self, link: Link) -> str:
        return (
            f"Entry {link.number} of the log {self._prefix} bears no signature of a trusted key "
            f"(it names {str(link.key)[:16]}): restore it from a backup of the store, or `requant "
            "keys trust` that key where it is yours."
        )

    def strays(self) -> tuple[str, ...]:
        """Return the keys in the log's folder that are no entries."""
        return tuple(
            key
            for key in self._store.stamps(f"{self._prefix}/")
            if _number(key.removeprefix(f"{self._prefix}/")) is None
        )

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the log, a sentence each, everything read anew."""
        folder = f"{self._prefix}/"
        for key in self.strays():
            yield f"The log {self._prefix} holds {key}, which is no entry of it."
        names = (key.removeprefix(folder) for key in self._store.stamps(folder))
        numbers = sorted(number for name in names if (number := _number(name)) is not None)
        before, sealed = None, None
        for place, number in enumerate(numbers):
            for lost in range((numbers[place - 1] if place else 0) + 1, number):
                yield f"The log {self._prefix} lacks entry {lost}."
            try:
                link = self._read(number)
                if (before is not None and before.number == number - 1) or number == 1:
                    _check_joint(before, link, self._prefix)
            except (Tampered, BadInput) as error:
                yield str(error)
                before = None
                continue
            sealed = sealed or (link if link.signature is not None else None)
            yield from self._wrong_signature(link, sealed, newest=number == numbers[-1])
            before = link

    def _wrong_signature(self, link: Link, sealed: Link | None, *, newest: bool) -> Iterator[str]:
        """Yield what is wrong with a signature.

        One of a key that is trusted no longer is vouched for by the entries after it.
        """
        if self._seal is None or sealed is None:
            return
        if link.signature is None:
            yield _unsigned(self._prefix, link, sealed)
        elif not self._is_sealed(link) and (newest or self._seal.knows(str(link.key))):
            yield self._forged(link)

    def _verified(self, stamps: Sequence[str]) -> tuple[Link, ...]:
        """Return the entries with these stamps; those are read that were not verified under them.

        The joints of all are checked: an entry that was written anew must still fit.
        """
        kept_stamps, rows = self._cache.read() if self._cache else ((), ())
        known = {
            number: Link(number, *row)
            for number, (stamp, kept, row) in enumerate(
                zip(stamps, kept_stamps, rows, strict=False), start=1
            )
            if stamp == kept
        }
        missing = [number for number in range(1, len(stamps) + 1) if number not in known]
        known.update(zip(missing, self._read_all(missing), strict=True))
        links = tuple(known[number] for number in range(1, len(stamps) + 1))
        for before, after in pairwise((None, *links)):
            _check_joint(before, after, self._prefix)
        if self._cache and len(missing) >= _WORTH_KEEPING:
            self._cache.write(stamps, [[*_row(link)] for link in links])
        return links

    def append(self, body: Mapping[str, Json], *, expect: int | None = None) -> Link:
        """Commit the body as the next entry.

        `expect` is the fence: the number of the head that the writer reasoned on (0: an empty log).
        When the head has moved since, nothing is written and `AlreadyExists` asks the caller to
        read again and reconsider. Without it, a lost race is retried on the next number. It also
        raises `BadInput`, `Tampered` and `Unavailable`.
        """
        for _ in range(_ATTEMPTS):
            head = self.head()
            link = self._link_after(head, body)
            if expect is not None and expect != link.number - 1:
                raise self._moved(expect)
            try:
                self._create(self._key(link.number), _encode(link))
            except AlreadyExists as error:
                if expect is not None:
                    raise self._moved(expect) from error
            else:
                if self._kept is not None and len(self._kept) == link.number - 1:
                    self._kept = (*self._kept, link)
                return link
        raise Unavailable(
            f"The log {self._prefix} lost {_ATTEMPTS} races in a row: "
            "fewer writers at once, then retry."
        )

    def _create(self, key: str, data: bytes) -> None:
        if self._retain is None:
            self._store.create(key, data)
        else:
            self._store.create(key, data, retain=self._retain)

    def _link_after(self, head: Link | None, body: Mapping[str, Json]) -> Link:
        number, previous = (head.number + 1, head.digest) if head else (1, _GENESIS)
        stamp = self._clock().astimezone(UTC).isoformat(timespec="microseconds")
        plain: Mapping[str, Json] = json.loads(
            canonical(body)
        )  # what a reader will see: lists for tuples, and so on
        version = _UNSIGNED if self._seal is None else _SIGNED
        digest = _digest(version, number, stamp, previous, plain)
        if self._seal is None:
            return Link(number, stamp, previous, digest, plain)
        signature = self._seal.sign(self._prefix, digest)
        return Link(number, stamp, previous, digest, plain, self._seal.key, signature)

    def _moved(self, expect: int) -> AlreadyExists:
        return AlreadyExists(
            f"The log {self._prefix} no longer ends at entry {expect}: "
            "read it again and decide on what it says now."
        )

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number:08d}.json"

    def stamps(self) -> Sequence[str]:
        """Return the stamps of the entries in the order of their numbers.

        What is no entry is left out, with a warning: it stops nothing. Raises `Tampered` for a gap.
        """
        stamps = {}
        for key, stamp in self._store.stamps(f"{self._prefix}/").items():
            number = _number(key.removeprefix(f"{self._prefix}/"))
            if number is None:
                _log.warning(
                    "The log %s holds %s, which is no entry of it and is ignored: "
                    "find out who put it there.",
                    self._prefix,
                    key,
                )
                continue
            stamps[number] = stamp
        # Beyond 99,999,999 text order is not number order.
        for expected, number in enumerate(sorted(stamps), start=1):
            if number != expected:
                raise Tampered(
                    f"The log {self._prefix} lacks entry {expected}: "
                    "restore it from a backup of the store."
                )
        return [stamps[number] for number in sorted(stamps)]

    def _read_all(self, numbers: Sequence[int]) -> Iterable[Link]:
        if len(numbers) < 2 * _READERS:
            return map(self._read, numbers)
        with ThreadPoolExecutor(
            _READERS
        ) as pool:  # a remote store answers each in milliseconds: overlap them
            return list(pool.map(self._read, numbers))

    def _read(self, number: int) -> Link:
        key = self._key(number)
        link = _decode(self._store.get(key), key)
        if link.number != number:
            raise Tampered(
                f"The entry {key} calls itself number {link.number}: "
                "restore it from a backup of the store."
            )
        return link


def _number(name: str) -> int | None:
    """Return the number of the entry in a file of that name; None where it is no entry's."""
    match = _NAME.fullmatch(name)
    number = int(match.group(1)) if match else 0
    return number if number and name == f"{number:08d}.json" else None


def _unsigned(prefix: str, link: Link, sealed: Link) -> str:
    return (
        f"Entry {link.number} of the log {prefix} is not signed, though entry {sealed.number} "
        "before it is: restore it from a backup of the store."
    )


def _row(link: Link) -> tuple[str, str, str, Mapping[str, Json], str | None, str | None]:
    """Return what is kept of a link, beside its number."""
    return link.time, link.previous, link.digest, link.body, link.key, link.signature


def _digest(version: int, number: int, time: str, previous: str, body: Mapping[str, Json]) -> str:
    return sha256(
        canonical(
            {
                "version": version,
                "number": number,
                "time": time,
                "previous": previous,
                "body": body,
            }
        )
    )


def _version(link: Link) -> int:
    return _UNSIGNED if link.signature is None else _SIGNED


def _encode(link: Link) -> bytes:
    sealed = {} if link.signature is None else {"key": link.key, "signature": link.signature}
    return canonical(
        {
            "version": _version(link),
            "number": link.number,
            "time": link.time,
            "previous": link.previous,
            "digest": link.digest,
            "body": link.body,
            **sealed,
        }
    )


def _decode(data: bytes, key: str) -> Link:
    try:
        entry = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Tampered(
            f"The entry {key} is not JSON: restore it from a backup of the store."
        ) from error
    if (
        isinstance(entry, dict)
        and isinstance(entry.get("version"), int)
        and entry["version"] > _SIGNED
    ):
        raise BadInput(
            f"The entry {key} has format version {entry['version']}: upgrade Requant to read it."
        )
    if not _well_formed(entry):
        raise Tampered(
            f"The entry {key} has other fields than an entry has: "
            "restore it from a backup of the store."
        )
    named = ("number", "time", "previous", "digest", "body", "key", "signature")
    link = Link(*(entry.get(name) for name in named))
    if not _intact(link, data):
        raise Tampered(
            f"The entry {key} does not match its digest: restore it from a backup of the store."
        )
    return link


def _intact(link: Link, data: bytes) -> bool:
    """Compare whole bytes, not only the digest.

    That also catches what parsing forgives: doubled keys, spaces.
    """
    try:
        return (
            _digest(_version(link), link.number, link.time, link.previous, link.body) == link.digest
            and _encode(link) == data
        )
    except BadInput:  # 1e999, a lone surrogate: what JSON text can hold and canonical JSON cannot
        return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _well_formed(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and set(entry) in (_FIELDS, _SEALED_FIELDS)
        and type(entry["number"]) is int
        and all(
            isinstance(value, str)
            for name, value in entry.items()
            if name not in ("version", "number", "body")
        )
        and isinstance(entry["body"], dict)
    )


def _check_joint(before: Link | None, after: Link | None, prefix: str) -> None:
    if after is not None and after.previous != (before.digest if before else _GENESIS):
        raise Tampered(
            f"Entry {after.number} of the log {prefix} does not follow from the entry before it: "
            "restore both from a backup of the store."
        )
