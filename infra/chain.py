"""An append-only log on a store's create-if-absent.

Its entries name their predecessor's digest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from infra.canonical import Json, canonical, sha256
from infra.errors import AlreadyExists, BadInput, Tampered, Unavailable
from infra.stores.port import ObjectStore

_VERSION = 1
_GENESIS = "0" * 64  # what the first entry names as its predecessor
_FIELDS = {"version", "number", "time", "previous", "digest", "body"}
_NAME = re.compile(r"(\d{8,})\.json")
_ATTEMPTS = 100  # lost races in a row before an unfenced append gives up
_READERS = 16


@dataclass(frozen=True, slots=True)
class Link:
    """One verified entry."""

    number: int  # 1, 2, 3, ... without a gap
    time: str  # ISO 8601, UTC, of the writer's clock
    previous: str  # the digest of entry number - 1; 64 zeros for the first
    digest: str  # SHA-256 over canonical JSON of version, number, time, previous and body
    body: Mapping[str, Json]


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
    ) -> None:
        """Open the log; with `keep`, an entry that was read and verified is not read again.

        Which entries there are is listed each time all the same.
        """
        self._store = store
        self._prefix = prefix.rstrip("/")
        self._clock = clock
        self._kept: dict[int, Link] | None = {} if keep else None

    def read(self) -> tuple[Link, ...]:
        """Return every entry, oldest first.

        Raises:
            Tampered: There is a gap, a wrong digest or a broken link.
        """
        numbers = self._numbers()
        links = tuple(self._load_all(numbers))
        for before, after in pairwise((None, *links)):
            _check_joint(before, after, self._prefix)
        return links

    def head(self) -> Link | None:
        """Return the newest entry, its own digest verified; raises `Tampered`."""
        numbers = self._numbers()
        return self._load(numbers[-1]) if numbers else None

    def append(self, body: Mapping[str, Json], *, expect: int | None = None) -> Link:
        """Commit the body as the next entry.

        `expect` is the fence: the number of the head that the writer reasoned on (0: an empty log).
        When the head has moved since, nothing is written and `AlreadyExists` asks the caller to
        read again and reconsider. Without it, a lost race is retried on the next number. It also
        raises `BadInput`, `Tampered` and `Unavailable`.
        """
        for _ in range(_ATTEMPTS):
            head = self.head()
            link = _link_after(head, body, self._clock())
            if expect is not None and expect != link.number - 1:
                raise self._moved(expect)
            try:
                self._store.create(self._key(link.number), _encode(link))
            except AlreadyExists as error:
                if expect is not None:
                    raise self._moved(expect) from error
            else:
                if self._kept is not None:
                    self._kept[link.number] = link
                return link
        raise Unavailable(
            f"The log {self._prefix} lost {_ATTEMPTS} races in a row: "
            "fewer writers at once, then retry."
        )

    def _moved(self, expect: int) -> AlreadyExists:
        return AlreadyExists(
            f"The log {self._prefix} no longer ends at entry {expect}: "
            "read it again and decide on what it says now."
        )

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number:08d}.json"

    def _numbers(self) -> tuple[int, ...]:
        keys = list(self._store.list(f"{self._prefix}/"))
        numbers = sorted(
            self._number_of(key) for key in keys
        )  # beyond 99,999,999 text order is not number order
        for expected, number in enumerate(numbers, start=1):
            if number != expected:
                raise Tampered(
                    f"The log {self._prefix} lacks entry {expected}: "
                    "restore it from a backup of the store."
                )
        return tuple(numbers)

    def _number_of(self, key: str) -> int:
        match = _NAME.fullmatch(key.removeprefix(f"{self._prefix}/"))
        if match is None:
            raise Tampered(
                f"The log {self._prefix} holds {key}, which is no entry of it: "
                "find out who put it there."
            )
        return int(match.group(1))

    def _load_all(self, numbers: tuple[int, ...]) -> Iterable[Link]:
        if len(numbers) < 2 * _READERS:
            return map(self._load, numbers)
        with ThreadPoolExecutor(
            _READERS
        ) as pool:  # a remote store answers each in milliseconds: overlap them
            return list(pool.map(self._load, numbers))

    def _load(self, number: int) -> Link:
        if self._kept is None:
            return self._read(number)
        if number not in self._kept:
            self._kept[number] = self._read(number)
        return self._kept[number]

    def _read(self, number: int) -> Link:
        key = self._key(number)
        link = _decode(self._store.get(key), key)
        if link.number != number:
            raise Tampered(
                f"The entry {key} calls itself number {link.number}: "
                "restore it from a backup of the store."
            )
        return link


def _link_after(head: Link | None, body: Mapping[str, Json], time: datetime) -> Link:
    number, previous = (head.number + 1, head.digest) if head else (1, _GENESIS)
    stamp = time.astimezone(UTC).isoformat(timespec="microseconds")
    plain: Mapping[str, Json] = json.loads(
        canonical(body)
    )  # what a reader will see: lists for tuples, and so on
    return Link(number, stamp, previous, _digest(number, stamp, previous, plain), plain)


def _digest(number: int, time: str, previous: str, body: Mapping[str, Json]) -> str:
    return sha256(
        canonical(
            {
                "version": _VERSION,
                "number": number,
                "time": time,
                "previous": previous,
                "body": body,
            }
        )
    )


def _encode(link: Link) -> bytes:
    return canonical(
        {
            "version": _VERSION,
            "number": link.number,
            "time": link.time,
            "previous": link.previous,
            "digest": link.digest,
            "body": link.body,
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
        and entry["version"] > _VERSION
    ):
        raise BadInput(
            f"The entry {key} has format version {entry['version']}: upgrade Requant to read it."
        )
    if not _well_formed(entry):
        raise Tampered(
            f"The entry {key} has other fields than an entry has: "
            "restore it from a backup of the store."
        )
    link = Link(entry["number"], entry["time"], entry["previous"], entry["digest"], entry["body"])
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
            _digest(link.number, link.time, link.previous, link.body) == link.digest
            and _encode(link) == data
        )
    except BadInput:  # 1e999, a lone surrogate: what JSON text can hold and canonical JSON cannot
        return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _well_formed(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and set(entry) == _FIELDS
        and type(entry["number"]) is int
        and all(isinstance(entry[field], str) for field in ("time", "previous", "digest"))
        and isinstance(entry["body"], dict)
    )


def _check_joint(before: Link | None, after: Link | None, prefix: str) -> None:
    if after is not None and after.previous != (before.digest if before else _GENESIS):
        raise Tampered(
            f"Entry {after.number} of the log {prefix} does not follow from the entry before it: "
            "restore both from a backup of the store."
        )
