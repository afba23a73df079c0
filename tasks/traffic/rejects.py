"""Records that are no requests, set aside with the reason: never dropped in silence."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from infra.errors import AlreadyExists
from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks.personal_data.names import clean

LONGEST_REJECT = 2_000  # bytes kept of a rejected record


@dataclass(frozen=True, slots=True)
class Reject:
    """One record that is no request."""

    line_or_row: int  # from 1
    reason: str  # without the record's content
    raw: str  # the beginning of the record; not redacted yet


def write_rejects(
    store: ObjectStore, model: str, rejects: Sequence[Reject], source_name: str
) -> str:
    """Set rejected records aside as JSON Lines, redacted and cut to 2 kB each; return the key."""
    lines = [_reject_line(reject, source_name) for reject in rejects]
    data = "".join(f"{line}\n" for line in lines).encode()
    key = layout.rejected(model, sha256(data).hexdigest()[:32])
    with contextlib.suppress(AlreadyExists):
        store.create(key, data)
    return key


def identity(reject: Reject) -> bytes:
    """Return what tells a rejected record from others, wherever in a file it stands: 16 bytes."""
    return _identity(reject.reason, _kept(reject))


def identities(data: bytes) -> set[bytes]:
    """Return the identities of all records that were set aside in one object."""
    lines = map(json.loads, data.decode().splitlines())
    return {_identity(line["reason"], line["raw"]) for line in lines}


def _identity(reason: str, kept: str) -> bytes:
    return sha256(json.dumps([reason, kept]).encode()).digest()[:16]


def _kept(reject: Reject) -> str:
    """Return the record as it is stored: redacted and cut."""
    return clean(reject.raw).text.encode(errors="replace")[:LONGEST_REJECT].decode(errors="ignore")


def _reject_line(reject: Reject, source: str) -> str:
    raw = _kept(reject)
    record = {
        "version": 1,
        "source": clean(source).text,
        "line_or_row": reject.line_or_row,
        "reason": reject.reason,
        "raw": raw,
    }
    return json.dumps(record, ensure_ascii=False)
