"""What a look found is stored as values that pages can plot."""

import json
import math
from datetime import UTC, datetime

from infra.canonical import canonical
from infra.identifiers import Digest, Key, ModelName, RequestId
from tasks.drift.report.publish import findings_document
from tasks.records import (
    Action,
    Decision,
    DetectorResult,
    Finding,
    Health,
    ReleaseRef,
    Request,
    SampleRef,
)

WINDOW = SampleRef(ModelName("m"), Digest("w" * 64), Key("windows/m/w"), 2, 9, {}, ())
CHAMPION = ReleaseRef(ModelName("m"), "3", Digest("r" * 64))


def asked(number: int, domain: str) -> Request:
    at = datetime(2026, 1, 5, tzinfo=UTC)
    return Request(RequestId(str(number)), at, "t", domain, "de", "a text")


def test_findings_and_groups_are_stored_and_what_json_has_not_is_left_out() -> None:
    found = (
        Finding("layer conv1", 0.03, 0.02, True, "conv1: clipped"),
        Finding("layer conv2", math.nan, 0.02, False, "conv2: no figure"),
        Finding("layer conv3", math.inf, 0.02, True, "conv3: no figure"),
    )
    result = DetectorResult("range", Health.DEGRADED, found, 2)
    decision = Decision(Action.KEEP, ("because",), (result,), WINDOW.digest)
    document = findings_document(WINDOW, CHAMPION, decision, [asked(0, "code"), asked(1, "law")])
    stored = json.loads(canonical(document))
    assert stored["groups"] == {"domain=code": 1, "domain=law": 1, "language=de": 2}
    (range_,) = stored["results"]
    assert [finding["subject"] for finding in range_["findings"]] == ["layer conv1"]
    assert (stored["version"], stored["champion"], range_["health"]) == (1, "3", "degraded")
