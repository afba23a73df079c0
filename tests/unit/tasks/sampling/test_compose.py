"""A window, composed over values: who is looked at, who is set aside, who covers the ranges."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.observation.request_amax import RequestAmax, SiteValues
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tasks.records import Payload, Request, Sample
from tasks.sampling.compose import CalibrationSet, compose
from tasks.sampling.digest import sample_of
from tasks.specs.spec import CalibrationSpec
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

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


def rare(language: str, text: str, count: int = 6) -> list[Request]:
    return [
        replace(one, language=language, payload=f"{text} {place}")
        for place, one in enumerate(requests("rare", count))
    ]


@pytest.mark.parametrize("selection", ["random", "cover"])
@pytest.mark.parametrize(("language", "text"), [("ja", "text"), ("unknown", "文章です")])
def test_what_is_rare_and_served_has_a_floor_however_the_set_is_chosen(
    selection: str, language: str, text: str
) -> None:
    live = [*requests("live", 300), *rare(language, text)]
    if language == "unknown":
        live = [replace(one, language="unknown") for one in live]
    rules = BLIND.model_copy(update={"selection": selection})
    composed_set = compose(
        sample_of(live, seen=306, dropped={}),
        pool=requests("pool", 50),
        golden=(),
        rules=rules,
        size=40,
        tenant_share=0.5,
        watch=lambda payloads: RequestAmax(
            (SiteValues("first"),), np.ones((len(payloads), 1)), np.ones((len(payloads), 1)) / 3
        ),
    )
    kept = [one for one in composed_set.sample.requests if one.request_id.startswith("rare")]
    assert len(kept) == 6, "in proportion it would be none of 30"


def test_a_floor_is_worth_most_of_what_drift_would_lose() -> None:
    """Measure new smoothing on 60 requests of one kind, and with 4 of another beside them."""
    rng = np.random.default_rng(0)
    model = graphs.encoder(16)
    common = rng.standard_normal((64, 6, 16)).astype(np.float32)
    other = common.copy()
    other[..., 3] *= 40.0
    held_out = other[32:]
    exact = graphs.run(model, held_out)

    def loss(calibration: NDArray[np.float32]) -> float:
        sites, observed = observe(model, calibration)
        made = derive(model, sites, observed, find_recipe("int8-smooth"), None)
        served = graphs.run(lower(qdq.write(made.plan), "u8"), held_out)
        return float(np.square(served - exact).sum() / np.square(exact).sum())

    without, floored, whole = (
        loss(calibration)
        for calibration in (common, np.concatenate([common[:60], other[:4]]), other[:32])
    )
    assert floored < 0.2 * without, (without, floored, whole)
    assert (without - floored) / (without - whole) > 0.9
