"""Faults on purpose: fifty of each kind that a folder can meet; elsewhere in the soak tests."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterator, Mapping
from multiprocessing.pool import Pool
from pathlib import Path

import pytest

from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.kinds import KINDS, RACES, acts_of

TRIALS = 50
SPREAD: Mapping[str, int] = {
    "promotion": 8,
    "approval": 8,
    "rollback": 11,
    "release": 8,
    "reconcile": 3,
    "restore": 1,
    "gc": 11,
}
"""How often a kind is tried on which act: the dear ones less often."""
_campaigns: list[Campaign] = []
"""Of a worker, its one campaign."""


def begin(folder: str, place: str, seed: int) -> None:
    """Prepare a campaign in this process, which forks."""
    warnings.simplefilter("ignore")
    _campaigns.append(Campaign(Path(folder), seed, place))


def tried(kind: str, acts: Mapping[str, int]) -> list[str]:
    """Try a kind on acts, each so often; return what was lost, and fail where nothing was tried."""
    (campaign,) = _campaigns
    trial, lost, struck = KINDS[campaign.place.name][kind], [], 0
    for act, trials in acts.items():
        tally = campaign.run(kind, trial, act, trials)
        struck += tally.struck
        lost += tally.lost
    if not struck:
        raise RuntimeError(f"{kind}: not one act met with the fault")
    return lost


def end() -> None:
    """Stop what the campaign started."""
    _campaigns.pop().place.close()


def opened(folder: Path, place: str, seed: int) -> Iterator[Pool]:
    """Yield a fresh process with a campaign: threads of other tests do not survive a fork."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(begin, (str(folder), place, seed))
        yield pool
        pool.apply(end)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    yield from opened(tmp_path_factory.mktemp("chaos"), "folder", 1)


def test_fifty_trials_are_spread_over_all_acts() -> None:
    assert sum(SPREAD.values()) == TRIALS
    assert set(SPREAD) == set(acts_of("killed at a random moment"))


@pytest.mark.parametrize("kind", KINDS["folder"])
def test_nothing_is_lost_to_fifty_faults_of_a_kind(campaign: Pool, kind: str) -> None:
    acts = {"promotion": TRIALS} if kind in RACES else SPREAD
    assert campaign.apply(tried, (kind, acts)) == []


@pytest.mark.soak
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("place", ["server", "moto"])
def test_nothing_is_lost_elsewhere_to_fifty_faults_of_each_kind(tmp_path: Path, place: str) -> None:
    each = opened(tmp_path, place, 2)
    pool = next(each)
    for kind in KINDS[place]:
        acts = acts_of(kind)
        assert pool.apply(tried, (kind, dict.fromkeys(acts, -(-TRIALS // len(acts))))) == []
    for _ in each:
        pass
