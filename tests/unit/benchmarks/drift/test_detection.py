"""Detection on a few windows of the digits: what acts, what informs, and peers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.drift import detection, ours, peers
from benchmarks.drift.windows import Bench, MeasuredWindow
from benchmarks.harness import subject
from benchmarks.harness.table import Goal


@pytest.fixture(scope="module")
def digits() -> Bench:
    return detection.bench_of(subject.digits(True))


@pytest.fixture(scope="module")
def sudden(digits: Bench) -> detection.WindowStream:
    (stream,) = detection.streams(digits, "exposure-sudden", [0], 4, per_day=1)
    return stream


def test_a_window_is_the_sum_of_its_requests(digits: Bench) -> None:
    whole = digits.windows(digits.reference, 64)
    half = digits.windows(digits.reference, 32)
    for name in digits.sites:
        assert half[0].sites[name] + half[1].sites[name] == whole[0].sites[name]
    assert np.allclose(whole[0].scores, np.concatenate([half[0].scores, half[1].scores]))


def test_what_acts_is_quiet_until_a_brighter_camera_comes(
    digits: Bench, sudden: detection.WindowStream
) -> None:
    assert sudden.costly.tolist() == [False] * 3 + [True] * 4
    assert ours.acting(digits, sudden.windows) == [False] * 3 + [True] * 4


def test_the_kernel_test_sees_the_camera_too(digits: Bench, sudden: detection.WindowStream) -> None:
    assert peers.kernel(digits, sudden.windows) == [False] * 3 + [True] * 4
    assert peers.evidently(digits, sudden.windows[:1]) == [False]


def test_a_peer_that_fails_keeps_its_row_with_the_reason(
    digits: Bench, sudden: detection.WindowStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Bench, windows: Sequence[MeasuredWindow]) -> list[bool]:
        raise RuntimeError(f"no environment for {len(windows)} windows")

    monkeypatch.setattr(
        detection, "DETECTORS", {detection.ACTS: ours.acting, detection.FROUROS: broken}
    )
    acts = detection.alarms_of(ours.acting, [sudden])
    mine, peer = detection.compare(digits, [sudden], 4, acts)
    (line,) = detection.by_scenario([sudden], acts)
    assert "ours acts in 0 of 3 harmless windows" in line
    assert (mine.power, mine.delay, mine.false) == (1.0, 0.0, 0.0)
    assert peer.failure == "RuntimeError: no environment for 4 windows"


def test_the_goal_counts_the_harmless_alarms_of_peers_in_which_ours_acts() -> None:
    mine = detection.DetectionRow(detection.ACTS, 1000, 0.0, 3, 1.0, 1.0, 10, 2, None, None, None)
    rows = [
        mine,
        replace(mine, name=detection.KERNEL, followed=0.05),
        replace(mine, name="other", followed=0.1),
    ]
    goals: Sequence[Goal] = detection.goals(rows)
    assert goals[-1].figure == pytest.approx(0.1)
    assert all(goal.reached for goal in goals)
