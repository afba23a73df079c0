"""A release on trial: its share of the traffic, and the requests that it and the old one answer."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import xxhash

from infra.gateway.release import ServedRelease
from infra.gateway.steering.shadow import SecondAnswer


class TrialObserver(Protocol):
    """What judges the candidate; it is asked on the request's path, and only takes notes."""

    @property
    def share(self) -> float:
        """The share of requests that are answered by both releases."""
        ...

    def answered(self, seconds: float) -> None:
        """Note an answer of the candidate to a caller."""
        ...

    def failed(self) -> None:
        """Note a caller's request to which the candidate gave no answer."""
        ...

    def compared(self, answers: Sequence[SecondAnswer]) -> None:
        """Note what the releases of `Trial.compared` answered to one request."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A candidate beside the champion."""

    candidate: ServedRelease
    base: ServedRelease  # the champion that it is compared with
    share: float  # of the routine tier's requests; 0: shadow
    observer: TrialObserver
    reference: ServedRelease | None = None  # what both are held against

    @property
    def compared(self) -> Sequence[ServedRelease]:
        """Return candidate, base and reference, as far as there is one."""
        both = (self.candidate, self.base)
        return both if self.reference is None else (*both, self.reference)

    def takes(self, key: str) -> bool:
        """Return whether the candidate answers requests of this key.

        The same key is always answered by the same release, on every replica, and stays with the
        candidate when its share grows. Requests without a key are drawn.
        """
        if not self.share:
            return False
        if not key:
            return secrets.randbelow(2**32) < self.share * 2**32
        salted = f"{self.candidate.digest}/{key}".encode()
        return xxhash.xxh3_64_intdigest(salted) < self.share * 2**64
