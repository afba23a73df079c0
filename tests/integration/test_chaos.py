"""Faults on purpose: a few of each kind here, and fifty in the long run."""

from __future__ import annotations

import multiprocessing
import warnings
from pathlib import Path

import pytest

from benchmarks.chaos.campaign import ALONE, KINDS, Campaign
from benchmarks.chaos.scene import ACTS

QUICK = {
    "killed before or after a write": ("promotion", "gc"),
    "killed, then an older or empty database": ("rollback",),
    "promoters, approvers, rollbacks and gc at once": ("promotion",),
}
"""Kinds that the short version tries, and on which acts."""


def tried(folder: str, seed: int, trials: int, kinds: dict[str, tuple[str, ...]]) -> list[str]:
    """Run a campaign in this process, which forks; return what was lost."""
    warnings.simplefilter("ignore")
    campaign = Campaign(Path(folder), seed)
    return [
        loss
        for kind, acts in kinds.items()
        for act in acts
        for loss in campaign.run(kind, act, trials).lost
    ]


def apart(*arguments: object) -> list[str]:
    """Run it in a fresh process: threads that other tests started do not survive a fork."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return list(pool.apply(tried, arguments))


def test_nothing_is_lost_to_a_few_faults(tmp_path: Path) -> None:
    assert apart(str(tmp_path), 1, 1, QUICK) == []


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_nothing_is_lost_to_fifty_faults_of_each_kind(tmp_path: Path) -> None:
    kinds = {kind: ("promotion",) if kind in ALONE else tuple(ACTS) for kind in KINDS}
    assert apart(str(tmp_path), 2, 50 // len(ACTS) + 1, kinds) == []
