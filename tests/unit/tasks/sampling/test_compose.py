"""A window, composed over values: who is looked at, who is set aside, who covers the ranges."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tasks.observation.request_amax import RequestAmax, SiteValues
from tasks.records import Payload, Request, Sample
from tasks.sampling.compose import CalibrationSet, compose
from tasks.sampling.digest import sample_of
from tasks.specs.spec import CalibrationSpec

START = datetime(2026, 3, 1, tzinfo=UTC)
BLIND = CalibrationSpec(near_duplicates=1.0, quarantine=False, least_support=0.0)


def requests(prefix: str, count: int) -> list[Request]:
    return [
        Request(
            f"{prefix}{i}",
            START + timedelta(seconds=i),
            f"t{i % 5}",
            "docs",
            "en",
            f"{prefix} text {i}",
        )
        for i in range(count)
    ]


def window(count: int) -> Sample:
    live = requests("live", count)
    weights = {request.request_id: 2.0 for request in live}
    drawn = sample_of(live, seen=1000, dropped={})
    return Sample(drawn.requests, drawn.digest, drawn.seen, drawn.dropped, weights)


def watch(payloads: Sequence[Payload]) -> RequestAmax:
    """Let the request whose text ends with 7 go far; the others are alike."""
    far = np.asarray([str(payload) == "live text 7" for payload in payloads])
    spread = np.linspace(0.9, 1.1, len(payloads))
    amax = np.where(far, 50.0, spread)[:, None]
    return RequestAmax((SiteValues("first"),), amax, amax / 3)


def never(payloads: Sequence[Payload]) -> RequestAmax:
    raise AssertionError("nothing of these rules needs a look")


def composed(rules: CalibrationSpec, look: object = watch, size: int = 40) -> CalibrationSet:
    return compose(
        window(100),
        pool=requests("pool", 50),
        golden=(),
        rules=rules,
        size=size,
        tenant_share=0.5,
        watch=look,  # type: ignore[arg-type]
    )


def test_requests_are_looked_at_only_where_a_rule_needs_it() -> None:
    assert composed(BLIND, never).quarantined == ()
    with pytest.raises(AssertionError, match="needs a look"):
        composed(CalibrationSpec(near_duplicates=1.0), never)


def test_an_outlier_is_set_aside_and_counted() -> None:
    found = composed(CalibrationSpec(near_duplicates=1.0))
    assert [out.request_id for out in found.quarantined] == ["live7"]
    assert "live7" not in {request.request_id for request in found.sample.requests}
    assert found.sample.dropped["quarantined"] == 1


def test_a_set_keeps_the_windows_weights_of_its_own_requests() -> None:
    sample = composed(BLIND).sample
    live = {one.request_id for one in sample.requests if one.request_id.startswith("live")}
    assert set(sample.weights) == live
    assert set(sample.weights.values()) == {2.0}


def test_covering_fills_the_live_places_with_no_tenant_above_its_part() -> None:
    rules = CalibrationSpec(near_duplicates=1.0, selection="cover")
    sample = composed(rules).sample
    live = [one.tenant for one in sample.requests if one.request_id.startswith("live")]
    assert len(live) == 30
    assert max(live.count(tenant) for tenant in set(live)) <= 15


def test_the_same_values_give_the_same_digest() -> None:
    assert composed(CalibrationSpec()).sample.digest == composed(CalibrationSpec()).sample.digest
