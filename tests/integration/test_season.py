"""A camera that sees bright and dim days in turn.

The same weekday of the weeks before is what today is judged by.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import yaml

from infra.settings import Settings
from tasks.records import DetectorResult, Health, Request
from tests.integration.conftest import EXAMPLES, images

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
DIM, BRIGHT = 0.5, 1.0
A_DAY = 200
DOMAIN = "exposure-1"
"""Of every request, one that the golden set knows: nothing but the images tells the days apart."""

pytestmark = pytest.mark.timeout(300)


def exposure_of(day: int) -> float:
    """Bright on Tuesdays, Thursdays and Saturdays."""
    return BRIGHT if day % 7 in (1, 3, 5) else DIM


def serve_day(settings: Settings, day: int, exposure: float) -> None:
    """Serve images from eight in the morning on, one every two minutes."""
    from tasks.traffic.storage.parts import write_traffic

    requests: Sequence[Request] = images(exposure, seed=day)
    drawn = np.random.default_rng(day).permutation(len(requests))[:A_DAY]
    start = MONDAY + timedelta(days=day, hours=8)
    timed = [
        replace(
            requests[chosen],
            request_id=f"{day}-{number}",
            tenant=f"t{number % 5}",
            domain=DOMAIN,
            time=start + timedelta(minutes=2 * number),
        )
        for number, chosen in enumerate(drawn)
    ]
    write_traffic(settings.store(), "digits", timed)


@pytest.fixture(scope="module")
def camera(loop: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Three weeks until a bright Saturday, on which a champion was built."""
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from tasks.models.catalog import register

    folder = tmp_path_factory.mktemp("camera") / "digits"
    shutil.copytree(EXAMPLES / "digits", folder)
    document = yaml.safe_load((folder / "model.yaml").read_text())
    document |= {
        "targets": ["onnxruntime-cpu"],
        "window": {"reference": "same-hour-of-week", "weeks": 3},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    register(folder / "model.yaml")
    for day in range(20):
        serve_day(loop, day, exposure_of(day))
    outcome = maintenance("digits")
    assert outcome.status is Status.PROMOTED, outcome.reason


def inputs(results: Sequence[DetectorResult]) -> DetectorResult:
    (found,) = [one for one in results if one.detector == "input"]
    return found


def test_a_dim_monday_after_a_bright_saturday_is_kept(loop: Settings, camera: None) -> None:
    from flows.maintenance import maintenance
    from flows.outcomes import Status

    serve_day(loop, 20, exposure_of(20))
    serve_day(loop, 21, exposure_of(21))
    outcome = maintenance("digits")
    assert outcome.status is Status.KEPT, outcome.reason
    assert outcome.decision is not None
    assert inputs(outcome.decision.results).health is Health.FINE


def test_the_same_monday_would_be_drift_beside_the_champions_own_day(
    loop: Settings, camera: None
) -> None:
    from tasks.drift.detectors.input import judge_inputs
    from tasks.promotion.history import champion_of
    from tasks.sampling.steps import sample_window
    from tasks.traffic.storage.codec import from_parquet

    window, champion = sample_window.fn("digits"), champion_of("digits")
    assert window is not None
    assert champion is not None
    calibration = loop.release("digits", champion.digest).facts["calibration"]
    keys = (f"calibration/digits/{calibration}.parquet", window.key)
    saturday, monday = (from_parquet(loop.store().get(key), where=key) for key in keys)
    assert judge_inputs(saturday, monday).health is Health.DEGRADED


def test_a_bright_wednesday_is_drift_beside_dim_wednesdays(loop: Settings, camera: None) -> None:
    """The champion was calibrated on bright images: beside its own day nothing moved."""
    from flows.maintenance import maintenance

    serve_day(loop, 22, exposure_of(22))
    serve_day(loop, 23, BRIGHT)
    outcome = maintenance("digits")
    assert outcome.decision is not None
    found = inputs(outcome.decision.results)
    assert found.health is Health.DEGRADED
    moved = {one.subject for one in found.findings if one.exceeded}
    assert {"mean", "maximum"} <= moved
    assert not {"domain", "language"} & moved
