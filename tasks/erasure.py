"""Whose data an act of `flows.commands.forget` is about, and what a stored file is without it.

An act is known by a pseudonym, the SHA-256 of a random salt and the name, so that one that was
killed can go on without the name being written down. The salt is deleted with the act: afterwards
nothing leads from the pseudonym to the name.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from infra.errors import BadInput
from infra.identifiers import marked
from tasks.records import Request
from tasks.traffic.masking import names_in_store, stored_tenant
from tasks.traffic.storage.codec import from_parquet, to_parquet

VERSION = 1
SubjectKind = Literal["tenant", "request"]
_PIECES = re.compile(r"([^A-Za-z0-9]+)")
_MOST_PIECES = 40
"""Of a file's name that are compared, in every run."""
_WORDS = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s"\',:;{}\[\]()]+)')


@dataclass(frozen=True, slots=True)
class Act:
    """One act of forgetting."""

    kind: SubjectKind
    salt: str  # hexadecimal
    pseudonym: str  # hexadecimal
    others: frozenset[str] = frozenset()  # of what the name was stored as under older keys

    def names(self, name: str) -> bool:
        """Return whether a stored name is the one to forget."""
        hashed = _pseudonym(self.salt, self.kind, name)
        return hashed == self.pseudonym or hashed in self.others

    def is_about(self, request: Request) -> bool:
        """Return whether a stored request has to go."""
        if self.kind == "tenant":
            return self.names(request.tenant)
        return self.names_request(request.request_id)

    def names_request(self, request_id: str) -> bool:
        """Return whether a stored id is the one to forget, or of a request that was sent as it."""
        return self.names(request_id) or self.names(marked(request_id)[0])


def new_act(kind: SubjectKind, name: str) -> Act:
    """Return an act for a tenant or a request, under the name that traffic is stored with.

    Raises `BadInput` without a name.
    """
    if not name.strip():
        raise BadInput(f"the {kind} to forget has no name: give the id as it stands in the traffic")
    salt = secrets.token_hex(16)
    others = frozenset(_pseudonym(salt, kind, stored) for stored in names_in_store(name))
    return Act(kind, salt, _pseudonym(salt, kind, stored_name(name)), others)


def stored_name(name: str) -> str:
    """Return what redaction makes of an id: one that is personal data becomes a pseudonym."""
    return stored_tenant(name)


def _pseudonym(salt: str, kind: str, name: str) -> str:
    return sha256(f"{salt}:{kind}:{name}".encode()).hexdigest()[:32]


def dump_act(act: Act) -> bytes:
    """Return the note that an act has begun."""
    document = {
        "version": VERSION,
        "kind": act.kind,
        "salt": act.salt,
        "pseudonym": act.pseudonym,
        "others": sorted(act.others),
    }
    return json.dumps(document, sort_keys=True).encode()


def parse_act(data: bytes, *, where: str) -> Act:
    """Read the note; raises `BadInput`."""
    try:
        document = json.loads(data)
        version, kind = document["version"], document["kind"]
        salt, pseudonym = str(document["salt"]), str(document["pseudonym"])
        others = frozenset(map(str, document.get("others", ())))
    except (ValueError, KeyError, TypeError) as exc:
        raise BadInput(
            f"{where} is no act of forgetting ({exc!r}): delete it and forget again"
        ) from exc
    if version != VERSION or kind not in ("tenant", "request"):
        raise BadInput(
            f"{where} is an act of version {version!r} about a {kind!r}: "
            "upgrade Requant to carry it out"
        )
    return Act(kind, salt, pseudonym, others)


def without_requests(
    data: bytes, act: Act, *, where: str
) -> tuple[tuple[Request, ...], tuple[Request, ...]]:
    """Return the requests of a Parquet file that stay, and those that go."""
    requests = from_parquet(data, where=where)
    going = tuple(request for request in requests if act.is_about(request))
    return tuple(request for request in requests if not act.is_about(request)), going


def sample_bytes(requests: tuple[Request, ...]) -> bytes:
    """Return a sample's file."""
    return to_parquet(requests)


def without_lines(data: bytes, act: Act) -> tuple[bytes, int]:
    """Return rejected records without the lines that hold the name anywhere, and how many went.

    They are whatever somebody sent, cut and redacted, one JSON document a line. Every word and
    quoted text of a line is compared, and the name of the file that it stood in.
    """
    lines = data.decode(errors="replace").splitlines(keepends=True)
    named: dict[str, bool] = {}  # a source's name stands in each of its lines
    for source in {_source(line) for line in lines}:
        named[source] = mentions(source, act)
    remaining = [
        line
        for line in lines
        if not (named[_source(line)] or any(act.names(word) for word in _words(line)))
    ]
    return "".join(remaining).encode(), len(lines) - len(remaining)


def _source(line: str) -> str:
    try:
        return str(json.loads(line)["source"])
    except (ValueError, KeyError, TypeError):
        return ""


def mentions(file_name: str, act: Act) -> bool:
    """Return whether the name to forget stands in a file's name.

    As a part of the path, or between other signs than letters.

    "acme-corp" stands in "logs/acme-corp-2026.jsonl", and "acme" does, too.
    """
    pieces = _PIECES.split(file_name)[:_MOST_PIECES]  # words and what stands between them, in turn
    ends = range(1, len(pieces) + 1)
    runs = ("".join(pieces[first:end]) for end in ends for first in range(end))
    return any(act.names(name) for run in runs for name in (run, stored_name(run)))


def _words(line: str) -> Iterator[str]:
    try:
        raw = str(json.loads(line)["raw"])
    except (ValueError, KeyError, TypeError):
        raw = line
    for quoted, plain in _WORDS.findall(raw):
        yield quoted or plain
        yield stored_name(quoted or plain)


def without_entries(data: bytes, act: Act, *, where: str) -> tuple[bytes, int]:
    """Return a quarantine document without the requests to forget, and how many went.

    Raises `BadInput` on a damaged one.
    """
    try:
        quarantined: Mapping[str, object] = json.loads(data)
        entries = quarantined["entries"]
        assert isinstance(entries, list)  # noqa: S101  # told as damage below
        remaining = [
            entry
            for entry in entries
            if not (
                act.names(entry["tenant"])
                if act.kind == "tenant"
                else act.names_request(entry["request_id"])
            )
        ]
    except (ValueError, KeyError, TypeError, AssertionError) as exc:
        raise BadInput(f"{where} is no quarantine document ({exc!r}): delete it") from exc
    return json.dumps({**quarantined, "entries": remaining}, sort_keys=True).encode(), len(
        entries
    ) - len(remaining)
