"""What a sample does not keep of what was drawn: personal data, and what the model cannot read.

Samples outlive the traffic: what a library recognises leaves their texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from tasks.personal_data.identifiers import require_library, scrub
from tasks.personal_data.redaction import redact
from tasks.records import UNREADABLE, GoldenCase, Payload, Request, Sample
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


def readable(sample: Sample, refusal: Callable[[Payload], str | None]) -> Sample:
    """Return the sample without the requests that the model refuses, which it counts by reason.

    Traffic that was brought in under another chat template, or other inputs, may hold such.
    """
    reasons = {request.request_id: refusal(request.payload) for request in sample.requests}
    refused = Counter(f"{UNREADABLE}{reason}" for reason in reasons.values() if reason is not None)
    if not refused:
        return sample
    rest = [request for request in sample.requests if reasons[request.request_id] is None]
    anew = sample_of(rest, seen=sample.seen, dropped=Counter(sample.dropped) + refused)
    weights = {name: size for name, size in sample.weights.items() if reasons.get(name) is None}
    return replace(anew, weights=weights)


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
