"""Weights in files are shared: they go when nothing names them, and nothing else of them goes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from flows.cli.application import app
from infra.errors import Unavailable
from infra.identifiers import RunId
from infra.liveness.process import identity
from infra.settings import Settings, settings
from infra.stores import layout
from infra.weights import going
from infra.weights.going import announced
from infra.weights.naming import weight_file
from tasks.promotion import entries, journal
from tasks.promotion.retention import shared_weights
from tasks.promotion.retention.collecting import collect
from tasks.promotion.retention.policy import Policy
from tasks.promotion.retention.shared_weights import collect_weights
from tests.integration.releases import promoted

AT_ONCE = timedelta(0)
NAMED_BY = {
    "registration": layout.registration_file("other", "r" * 64, "reference.onnx"),
    "candidate": layout.candidate_file("tiny", "c", "engines/onnxruntime-cpu/plan"),
    "release": layout.release_file("tiny", "d" * 64, "graph.onnx"),
}


def published(workspace: Settings, number: int, *, hours: float = 2) -> onnx.TensorProto:
    """Keep and publish a weight, last written so many hours ago."""
    weights = workspace.weights()
    tensor = weights.tensor(np.full((64, 64), number, np.float32), f"w{number}")
    weights.publish([weight_file(tensor)])
    past = time.time() - 3600 * hours
    os.utime(weights.folder / weight_file(tensor), (past, past))
    return tensor


def graph_of(*tensors: onnx.TensorProto) -> bytes:
    graph = onnx.helper.make_graph([], "g", [], [], initializer=list(tensors))
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def is_here(workspace: Settings, tensor: onnx.TensorProto) -> tuple[bool, bool]:
    name = weight_file(tensor)
    cached = (workspace.weights().folder / name).exists()
    return workspace.store().exists(layout.weight(name)), cached


def test_a_checkpoint_that_was_begun_and_left_goes(workspace: Settings) -> None:
    folder = workspace.root / "cache" / "tiny" / "derivations"
    past = time.time() - 7200
    for name in ("left", "young"):
        (folder / name).mkdir(parents=True)
        (folder / name / "derivation.json").write_bytes(b"{}")
        layer = folder / name / "model-00001-of-00003.safetensors"
        layer.write_bytes(bytes(100))
        os.utime(folder / name / "derivation.json", (past, past))
        os.utime(layer, (past, past) if name == "left" else None)
    plan = collect_weights(AT_ONCE, dry_run=True)
    assert (plan.files, plan.bytes, (folder / "left").exists()) == (2, 102, True)
    assert collect_weights(AT_ONCE, dry_run=False).bytes == 102
    assert [path.name for path in folder.iterdir()] == ["young"]


@pytest.mark.parametrize("in_memory", [1 << 26, 1], ids=["in memory", "from a file"])
def test_weights_that_nothing_names_go_and_the_named_stay(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(shared_weights, "_IN_MEMORY", in_memory)
    kept = [published(workspace, number) for number in range(len(NAMED_BY))]
    for tensor, key in zip(kept, NAMED_BY.values(), strict=True):
        workspace.store().put(key, graph_of(tensor))
    stale, young = published(workspace, 8), published(workspace, 9, hours=0)
    plan = collect_weights(AT_ONCE, dry_run=True)
    assert is_here(workspace, stale) == (True, True)
    freed = collect_weights(AT_ONCE, dry_run=False)
    assert (plan.files, plan.bytes, plan.kept) == (freed.files, freed.bytes, freed.kept)
    assert (freed.files, freed.bytes, freed.kept) == (1, 64 * 64 * 4, 4)
    assert is_here(workspace, stale) == (False, False)
    assert all(is_here(workspace, tensor) == (True, True) for tensor in (*kept, young))
    assert collect_weights(AT_ONCE, dry_run=False).files == 0


def test_age_is_that_of_the_policy_where_it_is_more_than_an_hour(workspace: Settings) -> None:
    stale = published(workspace, 1, hours=47)
    assert collect_weights(timedelta(days=2), dry_run=False).files == 0
    assert collect_weights(timedelta(days=1), dry_run=False).files == 1
    assert is_here(workspace, stale) == (False, False)


def test_what_a_killed_export_left_in_the_cache_goes_too(workspace: Settings) -> None:
    tensor = published(workspace, 1)
    workspace.store().delete(layout.weight(weight_file(tensor)))
    assert collect_weights(AT_ONCE, dry_run=False).files == 1
    assert is_here(workspace, tensor) == (False, False)


def test_a_weight_that_is_written_again_is_young(workspace: Settings) -> None:
    tensor = published(workspace, 1, hours=48)
    workspace.weights().tensor(np.full((64, 64), 1, np.float32), "again")
    assert collect_weights(AT_ONCE, dry_run=False).files == 0
    assert is_here(workspace, tensor) == (True, True)


def test_nothing_goes_while_a_run_may_be_at_work(workspace: Settings) -> None:
    workspace.store().put(layout.registration_in_use("tiny"), b'{"version": 1, "digest": "d"}')
    tensor = published(workspace, 1)
    details = ("w" * 64, RunId("run"), identity())
    journal.commit("tiny", entries.intended, *details, datetime.now(UTC), "ann", "try")
    collected = collect_weights(AT_ONCE, dry_run=False)
    assert (collected.files, collected.at_work) == (0, ("tiny",))
    assert is_here(workspace, tensor) == (True, True)


def a_run_began() -> None:
    details = ("w" * 64, RunId("run"), identity())
    journal.commit("tiny", entries.intended, *details, datetime.now(UTC), "ann", "try")


def a_registration_came() -> None:
    settings().store().put(NAMED_BY["registration"], b"graph")


@pytest.mark.parametrize(
    ("meanwhile", "model"), [(a_run_began, "tiny"), (a_registration_came, "other")]
)
def test_nothing_goes_once_somebody_wrote_while_the_graphs_were_read(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None], model: str
) -> None:
    workspace.store().put(layout.registration_in_use("tiny"), b'{"version": 1, "digest": "d"}')
    tensor = published(workspace, 1)
    named = shared_weights._named

    def read_slowly() -> Iterator[str]:
        yield from named()
        meanwhile()

    monkeypatch.setattr(shared_weights, "_named", read_slowly)
    collected = collect_weights(AT_ONCE, dry_run=False)
    assert (collected.files, collected.at_work) == (0, (model,))
    assert is_here(workspace, tensor) == (True, True)


def take_over(workspace: Settings, number: int) -> None:
    """Do what a candidate does: keep a weight, publish it, write the graph that names it."""
    weights = workspace.weights()
    tensor = weights.tensor(np.full((64, 64), number, np.float32), "again")
    with weights.published([weight_file(tensor)]):
        workspace.store().put(NAMED_BY["candidate"], graph_of(tensor))


def test_a_weight_that_is_named_while_it_goes_is_written_again(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = published(workspace, 1)
    removed, taking = shared_weights._removed, []

    def remove_late(*arguments: object) -> int:
        taking.append(Thread(target=take_over, args=(workspace, 1)))
        taking[0].start()
        while not workspace.store().exists(NAMED_BY["candidate"]):
            time.sleep(0.01)
        return removed(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shared_weights, "_removed", remove_late)
    assert collect_weights(AT_ONCE, dry_run=False).files == 1
    taking[0].join()
    assert is_here(workspace, tensor) == (True, True)


def test_a_collection_that_was_killed_is_waited_for_until_it_cannot_go_on(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = published(workspace, 1)
    monkeypatch.setattr(going, "_WAITS_S", 0.0)
    digest = weight_file(tensor).removeprefix("sha256-")
    killed = announced(workspace.store(), [digest])
    killed.__enter__()
    with pytest.raises(Unavailable, match=r"`requant gc`.*try again"):
        take_over(workspace, 1)
    monkeypatch.setattr(going, "LASTS", timedelta(minutes=-1))
    long_ago = announced(workspace.store(), [digest])
    long_ago.__enter__()
    take_over(workspace, 1)
    assert is_here(workspace, tensor) == (True, True)


def test_weights_of_a_collected_bundle_go_with_it(registry_workspace: Settings) -> None:
    workspace = registry_workspace
    old, _, _ = promoted(workspace, 1.0, 2.0, 3.0)
    tensor = published(workspace, 1)
    key = layout.release_file("tiny", old.digest, "more.onnx")
    workspace.store().put(key, graph_of(tensor))
    assert collect_weights(AT_ONCE, dry_run=False).files == 0
    collect("tiny", Policy(depth=1, age=AT_ONCE), "ann", dry_run=False)
    assert collect_weights(AT_ONCE, dry_run=False).files == 1


def test_the_command_says_what_it_freed(workspace: Settings) -> None:
    published(workspace, 1)
    for arguments, word in ((["--dry-run"], "would free"), ([], "freed")):
        result = CliRunner().invoke(app, ["gc", "--days", "0", *arguments])
        assert result.exit_code == 0, result.output
        line = f"weights  {word} 0.02 MB: 1 files that no graph names, 0 stay"
        assert line in " ".join(result.output.split()).replace("weights ", "weights  ", 1)
