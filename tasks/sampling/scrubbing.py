"""What the library recognises leaves the texts that samples keep: samples outlive the traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tasks.personal_data.identifiers import require_library, scrub
from tasks.personal_data.redaction import redact
from tasks.records import GoldenCase, Request, Sample
from tasks.sampling.digest import sample_of

PATTERNS = "patterns"
"""The value of `calibration.privacy` that leaves texts as the patterns of the import made them."""


def scrubbed(sample: Sample, privacy: str) -> Sample:
    """Return the sample without what the library recognises, where `calibration.privacy` wants it.

    Raises:
        BadInput: The library is wanted and not installed.
    """
    if privacy == PATTERNS:
        return sample
    require_library()
    clean = [_scrubbed_request(request) for request in sample.requests]
    anew = sample_of(clean, seen=sample.seen, dropped=sample.dropped)
    return replace(anew, weights=sample.weights)


def scrubbed_cases(cases: Sequence[GoldenCase], privacy: str) -> list[GoldenCase]:
    """Return golden cases as they are, and again as the library would leave those it changes.

    A live request that equals one is then still recognised.
    """
    if privacy == PATTERNS:
        return list(cases)
    texts = [
        (case, scrub(redact(case.payload).text)) for case in cases if isinstance(case.payload, str)
    ]
    changed = [replace(case, payload=clean.text) for case, clean in texts if clean.counts]
    return [*cases, *changed]


def _scrubbed_request(request: Request) -> Request:
    if not isinstance(request.payload, str):
        return request
    return replace(request, payload=scrub(request.payload).text)
