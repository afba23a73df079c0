"""What a consumer has read of a model's traffic, so that every part is read once however often a flow runs.

A watermark alone would miss a late part of an older hour. Parts never change and are named by their content, so what
was read is a set of names, and what is unread is the difference to the listing: 16 bytes a part.

`watermarks/MODEL/CONSUMER/00000001`, `00000002`, ... are created only if absent: the one commit, as in `infra.chain`.
Each adds the parts of one commit. Every SNAPSHOT_EVERY-th holds the whole set instead, without the parts that are no
longer stored, and empties the entries before it, whose numbers stay taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from infra.errors import AlreadyExists, BadInput, Tampered, Unavailable
from infra.stores.port import ObjectStore
from tasks.traffic.parts import hour_of

VERSION = 1
DIGEST = 16  # bytes kept of a key's SHA-256
SNAPSHOT_EVERY = 32
_CONSUMER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ATTEMPTS = 5
"""Of reading while another run empties what it has just summed up."""


@dataclass(frozen=True, slots=True)
class Unread:
    """What a consumer has not read yet."""

    parts: tuple[str, ...]  # keys in the order of their hours
    position: int  # of the consumer's log; the fence of `mark_read`


def unread(store: ObjectStore, model: str, consumer: str) -> Unread:
    """The parts that no `mark_read` of this consumer named, late ones of older hours among them.

    Raises `BadInput` for a bad consumer name or another version, `Tampered` for a damaged log.
    """
    position, read = _state(store, model, consumer)
    keys = (key for key in store.list(f"traffic/{model}/") if hour_of(key) is not None)
    return Unread(tuple(key for key in keys if _digest(key) not in read), position)


def mark_read(store: ObjectStore, model: str, consumer: str, parts: Iterable[str], *, position: int) -> int:
    """Commit parts as read; gives the new position. `position` is the one that `unread` gave.

    Raises `AlreadyExists` when another run of the consumer committed since: drop what came of the parts, and start
    again from `unread`.
    """
    added = {_digest(key) for key in parts}
    if not added:
        return position
    number = position + 1
    if snapshot := number % SNAPSHOT_EVERY == 0:
        found, read = _state(store, model, consumer)
        if found != position:
            raise _moved(consumer, position)
        stored = {_digest(key) for key in store.list(f"traffic/{model}/")}
        added = (read & stored) | added
    try:
        store.create(_key(model, consumer, number), _encode(added, snapshot))
    except AlreadyExists as error:
        raise _moved(consumer, position) from error
    if snapshot:
        for old in range(max(1, number - 2 * SNAPSHOT_EVERY), number):
            store.put(_key(model, consumer, old), b"")  # the number stays taken: a late writer still fails on it
    return number


def _state(store: ObjectStore, model: str, consumer: str) -> tuple[int, set[bytes]]:
    """The number of the last commit, and every digest that was marked."""
    for _ in range(_ATTEMPTS):
        last = _last(store, model, consumer)
        first = max(1, last - last % SNAPSHOT_EVERY)
        entries = [store.get(_key(model, consumer, number)) for number in range(first, last + 1)]
        if all(entries):
            return last, {digest for data in entries for digest in _decode(data, f"{model}/{consumer}")}
    raise Unavailable(f"the watermark {model}/{consumer} moved {_ATTEMPTS} times while it was read: run again")


def _last(store: ObjectStore, model: str, consumer: str) -> int:
    if not _CONSUMER.fullmatch(consumer):
        raise BadInput(f"the consumer is {consumer!r}: use small letters, digits and hyphens, at most 63")
    prefix = f"watermarks/{model}/{consumer}/"
    keys = list(store.list(prefix))
    if keys != [_key(model, consumer, number) for number in range(1, len(keys) + 1)]:
        raise Tampered(f"the watermark {prefix} lacks an entry: restore it, or use another consumer name to start anew")
    return len(keys)


def _key(model: str, consumer: str, number: int) -> str:
    return f"watermarks/{model}/{consumer}/{number:08d}"


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()[:DIGEST]


def _encode(digests: set[bytes], snapshot: bool) -> bytes:
    """One line of JSON, then the digests in order."""
    body = b"".join(sorted(digests))
    head = {"version": VERSION, "snapshot": snapshot, "sha256": sha256(body).hexdigest()}
    return json.dumps(head).encode() + b"\n" + body


def _decode(data: bytes, where: str) -> Iterable[bytes]:
    head, _, body = data.partition(b"\n")
    try:
        facts = json.loads(head)
        version, digest = facts["version"], facts["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise Tampered(f"an entry of the watermark {where} is damaged: restore it from a backup") from error
    if version != VERSION:
        raise BadInput(f"the watermark {where} has version {version}, not {VERSION}: upgrade Requant to read it")
    if sha256(body).hexdigest() != digest:
        raise Tampered(f"an entry of the watermark {where} does not match its digest: restore it from a backup")
    return (body[place : place + DIGEST] for place in range(0, len(body), DIGEST))


def _moved(consumer: str, position: int) -> AlreadyExists:
    return AlreadyExists(
        f"another run of {consumer} has committed since position {position}: drop what was computed and ask for the "
        "unread parts again"
    )
