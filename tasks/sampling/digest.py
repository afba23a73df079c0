"""The identity of a sample."""

from collections.abc import Iterable, Mapping
from hashlib import sha256

from infra.identifiers import Digest
from tasks.payloads import fingerprint
from tasks.records import Request, Sample


def digest(requests: Iterable[Request]) -> Digest:
    """Return a SHA-256 over the sorted pairs of request id and payload fingerprint, in hex."""
    pairs = sorted((request.request_id, fingerprint(request.payload)) for request in requests)
    hashed = sha256()
    for request_id, print_ in pairs:
        name = request_id.encode()
        hashed.update(len(name).to_bytes(8, "big") + name + bytes.fromhex(print_))
    return Digest(hashed.hexdigest())


def sample_of(requests: Iterable[Request], *, seen: int, dropped: Mapping[str, int]) -> Sample:
    """Return a sample in order of time, with its digest.

    Reasons that dropped nothing are left out.
    """
    ordered = tuple(sorted(requests, key=lambda request: (request.time, request.request_id)))
    return Sample(
        ordered,
        digest(ordered),
        seen,
        {reason: count for reason, count in dropped.items() if count},
    )
