"""What every place to work keeps to: this process, processes of this machine, a Dask cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from distributed.comm import connect

from infra.cluster import MANY, InProcess, Mapper, open_mapper
from infra.cluster.port import TRIES
from infra.cluster.workers import OnDask
from infra.errors import BadInput, Unavailable
from infra.settings import Settings, settings
from tests.clusters import Cluster, cluster
from tests.contract.conftest import free_port

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def dask() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(scope="module", params=["none", "local", "address"])
def mapper(request: pytest.FixtureRequest, shared_workspace: Settings) -> Iterator[Mapper]:
    place = request.getfixturevalue("dask").address if request.param == "address" else request.param
    (shared_workspace.root / "store").mkdir(parents=True, exist_ok=True)
    with open_mapper(place, pieces=2) as opened:
        yield opened


# --- every mapper ---------------------------------------------------------------------------------
# --------------------


def square(number: int) -> int:
    return number * number


def refuse_seven(number: int) -> int:
    if number == 7:
        raise BadInput("seven is refused: take another")
    return number


def divide_by(number: int) -> float:
    return 1 / number


def note(folder: Path) -> int:
    """Say that it was tried, and fail until the last time."""
    with (folder / "tries").open("a") as log:
        log.write("x")
    tried = len((folder / "tries").read_text())
    if tried < TRIES:
        raise Unavailable("the store did not answer: try again")
    return tried


def never(folder: Path) -> None:
    with (folder / "tries").open("a") as log:
        log.write("x")
    raise Unavailable("the store did not answer: try again")


def store_address(_: int) -> str:
    return settings().store_address


def test_results_come_in_the_order_of_the_items(mapper: Mapper) -> None:
    assert list(mapper.map(square, range(50))) == [number * number for number in range(50)]


def test_nothing_to_do_gives_nothing(mapper: Mapper) -> None:
    assert list(mapper.map(square, [])) == []


def test_items_are_read_only_so_far_ahead_as_the_work_needs(mapper: Mapper) -> None:
    read: list[int] = []
    results = mapper.map(square, (read.append(number) or number for number in range(1000)))  # type: ignore[func-returns-value]
    assert next(results) == 0
    assert len(read) <= 100
    results.close()  # type: ignore[attr-defined]  # a generator


def test_an_error_of_ours_arrives_as_it_was_raised_after_the_results_before_it(
    mapper: Mapper,
) -> None:
    results = mapper.map(refuse_seven, range(20))
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(BadInput, match="seven is refused"):
        next(results)


def test_a_fault_of_the_work_is_raised_and_not_swallowed(mapper: Mapper) -> None:
    with pytest.raises(ZeroDivisionError):
        list(mapper.map(divide_by, [1, 0]))


def test_what_did_not_answer_is_tried_again(mapper: Mapper, tmp_path: Path) -> None:
    assert list(mapper.map(note, [tmp_path])) == [TRIES]


def test_what_never_answers_is_given_up(mapper: Mapper, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="did not answer"):
        list(mapper.map(never, [tmp_path]))
    assert len((tmp_path / "tries").read_text()) == TRIES


def test_the_work_sees_the_callers_settings(mapper: Mapper, shared_workspace: Settings) -> None:
    assert set(mapper.map(store_address, range(8))) == {shared_workspace.store_address}


def test_there_is_always_somebody_to_work(mapper: Mapper) -> None:
    assert mapper.workers >= 1


# --- which one is opened
# ----------------------------------------------------------------------------------------------


def test_few_pieces_stay_in_this_process_by_default(shared_workspace: Settings) -> None:
    with open_mapper(None, pieces=2) as opened:
        assert isinstance(opened, InProcess)


@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one core: more processes would only wait for it"
)
def test_many_pieces_go_to_processes_of_this_machine_by_default(shared_workspace: Settings) -> None:
    with open_mapper(None, pieces=1000) as opened:
        assert set(opened.map(process_number, range(20))).isdisjoint({os.getpid()})


def process_number(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize(
    "address", ["localhost:8786", "http://127.0.0.1:1", "tcp://", "everywhere"]
)
def test_an_address_that_is_none_is_bad_input(address: str, shared_workspace: Settings) -> None:
    with (
        pytest.raises(BadInput, match="give none, local, or a scheduler's address"),
        open_mapper(address, pieces=2),
    ):
        pass


def test_a_scheduler_that_does_not_answer_is_said_to(
    shared_workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.cluster.workers.CONNECT_S", 1.0)
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        pytest.raises(Unavailable, match=f"no Dask scheduler answers at {address}"),
        open_mapper(address, pieces=2),
    ):
        pass


def test_a_scheduler_without_workers_is_said_to_have_none(
    shared_workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.cluster.workers.CONNECT_S", 2.0)
    with (
        cluster(workers=0) as running,
        pytest.raises(Unavailable, match="has no workers: start some"),
        open_mapper(running.address, pieces=2),
    ):
        pass


def test_a_worker_of_other_versions_is_refused_by_name(
    shared_workspace: Settings, tmp_path: Path
) -> None:
    """A distribution that says to be another version stands first on the worker's path."""
    other = tmp_path / "numpy-0.0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    (shared_workspace.root / "store").mkdir(parents=True, exist_ok=True)
    with cluster(workers=0) as running:
        running.add_worker({"PYTHONPATH": str(tmp_path)})
        with (
            pytest.raises(Unavailable, match=r"worker tcp://.* has numpy 0\.0\.1 instead of"),
            open_mapper(running.address, pieces=2),
        ):
            pass


def test_a_worker_that_does_not_see_the_store_is_refused(
    dask: Cluster, workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUANT_STORE_URL", "file:///nowhere/store")
    settings.cache_clear()
    with (
        pytest.raises(Unavailable, match="does not see file:///nowhere/store"),
        open_mapper(dask.address, pieces=2),
    ):
        pass


def test_work_that_ends_every_worker_is_given_up(
    shared_workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.cluster.workers.LONELY_S", 1.0)
    (shared_workspace.root / "store").mkdir(parents=True, exist_ok=True)
    with (
        cluster(workers=1) as running,
        open_mapper(running.address, pieces=2) as opened,
        pytest.raises(Unavailable, match="has no workers any more"),
    ):
        list(opened.map(end, [1]))


def end(_: int) -> None:
    os._exit(1)


def test_a_scheduler_that_ends_in_the_middle_is_said_to_be_lost(
    shared_workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.cluster.workers.LONELY_S", 1.0)
    (shared_workspace.root / "store").mkdir(parents=True, exist_ok=True)
    with cluster(workers=1) as running, open_mapper(running.address, pieces=2) as opened:
        results = opened.map(square, range(100))
        assert next(results) == 0
        running.scheduler.kill()
        with pytest.raises(Unavailable, match=running.address):
            list(results)


def test_a_result_that_comes_as_its_time_is_over_is_taken() -> None:
    class Late:
        status, asked = "finished", 0

        def done(self) -> bool:
            return True

        def result(self, timeout: float) -> int:
            self.asked += 1
            if self.asked == 1:
                raise TimeoutError(timeout)
            return 7

    mapper: Any = OnDask(None, "tcp://127.0.0.1:1", {})  # type: ignore[arg-type]
    assert mapper._result(Late(), square) == 7


def test_workers_of_this_machine_take_no_orders_from_others() -> None:
    """Keep out whoever lacks the keys of the block, on any port.

    Whoever reaches a scheduler can run code.
    """
    before = listening()  # of other tests' clusters
    with open_mapper("local", pieces=MANY) as mapper:
        assert list(mapper.map(abs, [-1])) == [1]
        opened = listening() - before
        assert len(opened) >= 3
        for port in opened:
            with pytest.raises((OSError, TimeoutError)):
                asyncio.run(asyncio.wait_for(connect(f"tcp://127.0.0.1:{port}"), 2))
            with contextlib.suppress(httpx.TransportError):
                assert httpx.get(f"http://127.0.0.1:{port}/", timeout=3).status_code >= 400


def listening() -> set[int]:
    """Return the ports of this machine that this process and its children listen on."""
    here = psutil.Process()
    return {
        one.laddr.port
        for process in (here, *here.children(recursive=True))
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN and one.laddr.ip == "127.0.0.1"
    }
