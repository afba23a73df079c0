"""Faults on purpose: fifty kills of each kind and a few other faults; the rest takes longer."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.kinds import KINDS, acts_of
from benchmarks.chaos.scene import ACTS

QUICK: Mapping[str, Mapping[str, int]] = {
    "killed before or after a write": dict.fromkeys(ACTS, 8),
    "killed at a random moment": {"promotion": 12, "approval": 12, "rollback": 13, "gc": 13},
    "a write fails: no space": {"gc": 2},
    "the clock set back, then killed": {"release": 2},
    "killed, then an older or empty database": {"rollback": 1},
    "promoters, approvers, rollbacks and gc at once": {"promotion": 1},
}
"""How often the short version tries which kind on which act."""
TRIALS = 50


def tried(folder: str, place: str, seed: int, kinds: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Run a campaign in this process, which forks; return what was lost."""
    warnings.simplefilter("ignore")
    campaign = Campaign(Path(folder), seed, place)
    try:
        return [
            loss
            for kind, acts in kinds.items()
            for act, trials in acts.items()
            for loss in campaign.run(kind, KINDS[place][kind], act, trials).lost
        ]
    finally:
        campaign.place.close()


def apart(*arguments: object) -> list[str]:
    """Run it in a fresh process: threads that other tests started do not survive a fork."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return list(pool.apply(tried, arguments))


def test_nothing_is_lost_to_fifty_kills_and_a_few_other_faults(tmp_path: Path) -> None:
    assert apart(str(tmp_path), "folder", 1, QUICK) == []


@pytest.mark.soak
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("place", ["folder", "server", "moto"])
def test_nothing_is_lost_to_fifty_faults_of_each_kind(tmp_path: Path, place: str) -> None:
    kinds = {
        kind: dict.fromkeys(acts_of(kind), -(-TRIALS // len(acts_of(kind))))
        for kind in KINDS[place]
    }
    assert apart(str(tmp_path), place, 2, kinds) == []
