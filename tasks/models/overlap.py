"""Golden cases must never be calibrated on."""

from collections.abc import Iterable

from infra.errors import BadInput
from tasks.payloads import fingerprint
from tasks.personal_data.redaction import redact
from tasks.records import GoldenCase, Request


def golden_contents(golden: Iterable[GoldenCase]) -> frozenset[str]:
    """Return fingerprints of golden inputs, as shipped and as redaction would store them."""
    contents = set()
    for case in golden:
        contents.add(fingerprint(case.payload))
        if isinstance(case.payload, str):
            contents.add(fingerprint(redact(case.payload).text))
    return frozenset(contents)


def require_disjoint(pool: Iterable[Request], forbidden: frozenset[str]) -> None:
    """Raise `BadInput` naming some of the pool's requests that are golden cases."""
    both = [request.request_id for request in pool if fingerprint(request.payload) in forbidden]
    if both:
        cases = "1 case" if len(both) == 1 else f"{len(both)} cases"
        raise BadInput(
            f"the golden set overlaps the calibration set: {cases}, e.g. {', '.join(both[:3])}; "
            "remove them from the calibration pool, because a model must not be calibrated on what "
            "judges it"
        )
