"""What the ledger says is what is served, whatever is flipped, killed or repeated in between."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.errors import AlreadyExists, Tampered, Unavailable
from infra.liveness.process import identity
from infra.registry import connection
from infra.run_scope import run_scope
from infra.settings import Settings
from infra.stores.local import LocalStore
from tasks.promotion import entries, history, journal, ledger
from tasks.promotion.acts import promoting, reconciling
from tasks.promotion.ledger import EntryKind
from tests.integration.releases import flip, promoted, released


@pytest.fixture
def workspace(registry_workspace: Settings) -> Settings:
    """Point this process at a workspace with an empty registry."""
    return registry_workspace


FILES = ("graph.onnx", "engines/onnxruntime-cpu/plan", "golden/onnxruntime-cpu.json")


def kinds(model: str = "tiny") -> list[str]:
    return [entry.kind.value for entry in journal.read(model)]


@pytest.mark.parametrize("file", FILES)
def test_neither_promotion_nor_approval_takes_a_bundle_with_a_flipped_bit(
    workspace: Settings, file: str
) -> None:
    (champion,) = promoted(workspace, 1.0)
    candidate = released(workspace, 2.0)
    journal.commit("tiny", entries.approval_requested, candidate, champion.version, "a", "try")
    before = journal.read("tiny")
    flip(workspace, candidate, file)
    with pytest.raises(Tampered, match=file):
        promoting.promote(candidate, champion.version, "a", "it passed")
    with pytest.raises(Tampered, match=file):
        promoting.answer("tiny", candidate.version, True, "ann", "looks good")
    assert journal.read("tiny") == before, "a refused approval leaves no entry behind"
    promoting.answer("tiny", candidate.version, False, "ann", "it is damaged")  # a no needs none
    assert workspace.registry().aliases("tiny")["champion"] == champion.version


def test_an_approval_that_was_cut_off_is_finished_by_the_next_reconciliation(
    workspace: Settings,
) -> None:
    (champion,) = promoted(workspace, 1.0)
    candidate = released(workspace, 2.0)
    journal.commit("tiny", entries.approval_requested, candidate, champion.version, "a", "try")
    verify = lambda entry: candidate  # noqa: E731  # the process dies after this entry
    journal.commit("tiny", entries.answered, "tiny", candidate.version, True, verify, "ann", "fine")
    assert history.champion_of("tiny") == champion
    waiting = ledger.cut_off_approvals(journal.read("tiny"))
    assert [entry.version for entry in waiting] == [candidate.version]
    comparison = reconciling.reconcile("tiny")
    assert "cut off" in comparison.told
    assert history.champion_of("tiny") == candidate
    assert journal.read("tiny")[-1].actor == "ann"
    assert workspace.registry().aliases("tiny")["champion"] == candidate.version
    assert ledger.cut_off_approvals(journal.read("tiny")) == ()


def test_a_cut_off_approval_of_what_was_damaged_since_waits_visibly(workspace: Settings) -> None:
    (champion,) = promoted(workspace, 1.0)
    candidate = released(workspace, 2.0)
    journal.commit("tiny", entries.approval_requested, candidate, champion.version, "a", "try")
    verify = lambda entry: candidate  # noqa: E731
    journal.commit("tiny", entries.answered, "tiny", candidate.version, True, verify, "ann", "fine")
    flip(workspace, candidate, "graph.onnx")
    assert "cannot be promoted" in reconciling.reconcile("tiny").told
    assert history.champion_of("tiny") == champion
    assert len(ledger.cut_off_approvals(journal.read("tiny"))) == 1


class Repeating(LocalStore):
    """A store behind a proxy that repeats a conditional write whose answer it lost."""

    def create(self, key: str, data: bytes) -> None:
        super().create(key, data)
        super().create(key, data)


def test_a_conditional_write_that_a_proxy_repeats_is_one_rollback(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = promoted(workspace, 1.0, 2.0, 3.0)
    store = Repeating(workspace.store().url)
    monkeypatch.setattr(Settings, "store", lambda _: store)
    back = promoting.roll_back("tiny", None, "ann", "users complain", "request-1")
    assert back == second
    assert kinds()[-2:] == ["promoted", "rolled-back"]
    assert promoting.roll_back("tiny", None, "ann", "users complain", "request-1") == second
    assert kinds()[-2:] == ["promoted", "rolled-back"]
    assert promoting.roll_back("tiny", None, "ann", "again", "request-2") == first
    assert third != first
    with pytest.raises(AlreadyExists):
        store.create("x", b"1")


_CLAIM = """
from tasks.promotion import steps
import os
steps.claim.fn("tiny", "w" * 64, "run-1", "schedule", "drift")
os._exit(9)
"""


def test_a_killed_run_leaves_no_claim_after_one_reconciliation(workspace: Settings) -> None:
    promoted(workspace, 1.0)
    killed = subprocess.run(
        [sys.executable, "-c", _CLAIM], check=False, cwd=Path(__file__).parents[2]
    )
    assert killed.returncode == 9
    now = datetime.now(UTC)
    assert ledger.open_intent(journal.read("tiny"), "w" * 64, now, entries.LEASE) is not None
    live = identity()
    journal.commit("tiny", entries.intended, "v" * 64, "run-2", live, now, "ann", "by hand")  # type: ignore[arg-type]
    reconciling.reconcile("tiny")
    left = journal.read("tiny")
    assert ledger.open_intent(left, "w" * 64, now, entries.LEASE) is None
    assert ledger.open_intent(left, "v" * 64, now, entries.LEASE) is not None
    assert "killed" in next(e for e in left if e.kind is EntryKind.FINISHED).reason


def test_one_models_trouble_stops_no_other(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.reconcile import reconcile
    from tasks.promotion.reconcile import AliasState

    for model in ("bad", "good"):
        promoted(workspace, 1.0, 2.0, model=model)
    (Path(workspace.root) / "store" / "ledger" / "bad" / "00000001.json").write_bytes(b"{}")
    (first, _) = [entry for entry in journal.read("good") if entry.kind is EntryKind.PROMOTED]
    workspace.registry().set_alias("good", "champion", str(first.version))
    monkeypatch.setattr("flows.reconcile.model_names", lambda _: ["bad", "good"])
    answers = reconcile.fn()
    assert answers["bad"].outcome is AliasState.FAILED
    assert "00000001.json" in answers["bad"].reason
    assert answers["good"].outcome is AliasState.ADOPTED
    with pytest.raises((Tampered, Unavailable)):
        reconcile.fn("bad")


def test_a_promotion_opens_the_registry_once(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (champion,) = promoted(workspace, 1.0)
    candidate = released(workspace, 2.0)
    opened: list[str] = []
    opening = connection._open

    def counted(uri: str, registry_uri: str | None) -> object:
        opened.append(uri)
        return opening(uri, registry_uri)

    monkeypatch.setattr(connection, "_open", counted)
    promoting.promote(candidate, champion.version, "ann", "better")
    assert workspace.registry().aliases("tiny")["champion"] == candidate.version
    assert len(opened) == 2, "one for the promotion, one for the look at its alias"


def test_what_a_run_read_before_proves_nothing_of_what_it_promotes(workspace: Settings) -> None:
    (champion,) = promoted(workspace, 1.0)
    candidate = released(workspace, 2.0)
    with run_scope():
        workspace.release("tiny", candidate.digest).file("graph.onnx")
        flip(workspace, candidate, "graph.onnx")
        with pytest.raises(Tampered, match=r"graph\.onnx"):
            promoting.promote(candidate, champion.version, "a", "it passed")
