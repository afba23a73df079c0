"""A run opens its model, its release and its window once: what it reads of the store, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from infra.settings import Settings
from infra.stores.local import LocalStore
from tests.integration.conftest import EXAMPLES, images, serve

CURRENT = "models/digits/current"
READS_A_KEY = 1.2
"""A quiet run reads a key at most this often, on average."""


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Key -> how often the block read it, by a run that finds nothing opened before."""
    from tasks.models import catalog
    from tasks.specs import registration

    counts: Counter[str] = Counter()
    get = LocalStore.get

    def counting(store: LocalStore, key: str) -> bytes:
        counts[key] += 1
        return get(store, key)

    catalog._opened.cache_clear()
    registration._parsed.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStore, "get", counting)
        yield counts


@pytest.fixture(scope="module")
def climbed(loop: Settings) -> Counter[str]:
    """Climb to a first champion, and return what was read."""
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from tasks.models.catalog import register

    register(EXAMPLES / "digits" / "model.yaml")
    serve(loop, "digits", 0, images(0.5, 1.0))
    with counted() as counts:
        assert maintenance("digits").status is Status.PROMOTED
    return counts


@pytest.fixture(scope="module")
def quiet(loop: Settings, climbed: Counter[str]) -> Counter[str]:
    """Run on a window of the same traffic, and return what was read."""
    from flows.maintenance import maintenance
    from flows.outcomes import Status

    serve(loop, "digits", 1, images(0.5, 1.0, seed=1))
    with counted() as counts:
        assert maintenance("digits").status is Status.KEPT
    return counts


def of(counts: Counter[str], prefix: str, suffix: str) -> Counter[str]:
    return Counter(
        {
            key: count
            for key, count in counts.items()
            if key.startswith(prefix) and key.endswith(suffix)
        }
    )


def test_a_climb_asks_at_most_three_times_which_model_is_in_use(climbed: Counter[str]) -> None:
    assert 1 <= climbed[CURRENT] <= 3


def test_a_quiet_run_reads_a_key_once(quiet: Counter[str]) -> None:
    assert quiet.total() <= READS_A_KEY * len(quiet), quiet.most_common(5)
    assert quiet[CURRENT] == 1


def test_a_quiet_run_verifies_the_release_once(quiet: Counter[str]) -> None:
    assert list(of(quiet, "releases/digits/", "/manifest.json").values()) == [1]
    assert list(of(quiet, "releases/digits/", "/manifest.sig").values()) == [1]


def test_a_quiet_run_reads_the_windows_requests_once(quiet: Counter[str]) -> None:
    assert list(of(quiet, "windows/digits/", ".parquet").values()) == [1]


def test_a_quiet_run_reads_a_part_of_the_traffic_once(quiet: Counter[str]) -> None:
    parts = of(quiet, "traffic/digits/", ".parquet")
    assert parts
    assert set(parts.values()) == {1}


def test_a_quiet_run_reads_an_entry_of_the_ledger_once(quiet: Counter[str]) -> None:
    entries = of(quiet, "ledger/digits/", ".json")
    assert len(entries) >= 3
    assert set(entries.values()) == {1}
