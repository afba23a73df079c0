"""What served when, whether all is as it was signed, and what may go: asked of a real registry."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from flows.commands.audit import verify
from flows.commands.collection import hold
from flows.queries.served import served
from infra.errors import BadInput, NotFound, Refused
from infra.identifiers import Digest
from infra.settings import Settings
from infra.stores import layout
from infra.stores.port import Listed
from tasks.promotion import entries, history, journal
from tasks.promotion.acts import promoting, reconciling
from tasks.promotion.acts.restoring import restore
from tasks.promotion.ledger import EntryKind
from tasks.promotion.retention import collecting, policy
from tasks.promotion.retention.collecting import collect
from tasks.promotion.retention.policy import Policy
from tasks.records import ReleaseRef
from tests.integration.releases import flip, promoted, released


@pytest.fixture
def workspace(registry_workspace: Settings) -> Settings:
    """Point this process at a workspace with an empty registry."""
    return registry_workspace


def test_a_moment_is_answered_with_who_served_who_approved_and_on_which_evidence(
    workspace: Settings,
) -> None:
    before = datetime.now(UTC)
    (first,) = promoted(workspace, 1.0)
    candidate = released(workspace, 2.0)
    journal.commit("tiny", entries.approval_requested, candidate, first.version, "a", "try")
    between = datetime.now(UTC)
    promoting.answer("tiny", candidate.version, True, "ann", "looks good")
    after = datetime.now(UTC)
    promoting.roll_back("tiny", None, "bob", "users complain", "request-1")
    answer = served("tiny", between.isoformat())
    assert (answer.version, answer.release, answer.approval) == (
        first.version,
        first.digest,
        None,
    )
    answer = served("tiny", after.isoformat())
    assert answer.version == candidate.version
    assert answer.approval is not None
    assert answer.approval.actor == "ann"
    assert answer.until is not None
    assert answer.evidence["verdicts"] == {"onnxruntime-cpu": "passed"}
    answer = served("tiny", datetime.now(UTC).isoformat())
    assert (answer.version, answer.promotion.kind) == (first.version, EntryKind.ROLLED_BACK)
    assert answer.until is None
    with pytest.raises(NotFound, match="Nothing served"):
        served("tiny", before.isoformat())
    with pytest.raises(BadInput, match="no moment"):
        served("tiny", "yesterday")


def a_flipped_graph(workspace: Settings) -> str:
    release = history.champion_of("tiny")
    assert release is not None
    flip(workspace, release, "graph.onnx")
    return "graph.onnx"


def a_deleted_signature(workspace: Settings) -> str:
    release = history.champion_of("tiny")
    assert release is not None
    workspace.store().delete(layout.release_file("tiny", release.digest, "manifest.sig"))
    return "not signed"


def a_replaced_bill(workspace: Settings) -> str:
    release = history.champion_of("tiny")
    assert release is not None
    workspace.store().put(layout.release_file("tiny", release.digest, "bom.cdx.json"), b"{}")
    return "bom.cdx.json"


def a_lost_entry(workspace: Settings) -> str:
    workspace.store().delete("ledger/tiny/00000002.json")
    return "ends at entry 1"


def a_stray_file(workspace: Settings) -> str:
    workspace.store().put("ledger/tiny/copy of 2.json".replace(" ", "-"), b"{}")
    return "no entry of it"


@pytest.mark.parametrize(
    "damage", [a_flipped_graph, a_deleted_signature, a_replaced_bill, a_lost_entry, a_stray_file]
)
def test_a_fault_is_one_line_that_names_it(
    workspace: Settings, damage: Callable[[Settings], str]
) -> None:
    promoted(workspace, 1.0, 2.0)
    assert verify() == []
    named = damage(workspace)
    faults = verify("tiny")
    assert [fault for fault in faults if named in fault.what], faults
    with pytest.raises(NotFound):
        verify("no-such-model")


def test_a_stray_file_stops_nothing_and_is_reported_by_reconciliation(workspace: Settings) -> None:
    promoted(workspace, 1.0, 2.0)
    a_stray_file(workspace)
    told = reconciling.reconcile("tiny").told
    assert "copy-of-2.json" in told
    promoting.roll_back("tiny", None, "bob", "try", "request-1")


NOW = Policy(depth=1, age=timedelta(0))


def test_what_nothing_needs_goes_and_what_something_needs_stays(workspace: Settings) -> None:
    held, old, previous, champion = promoted(workspace, 1.0, 2.0, 3.0, 4.0)
    hold("tiny", held.version, "a lawsuit", lift=False)
    waiting = released(workspace, 5.0)
    journal.commit("tiny", entries.approval_requested, waiting, champion.version, "a", "try")
    refused = released(workspace, 6.0)
    journal.commit("tiny", entries.refused, refused, "a", "worse", ["cosine"])
    unnamed = released(workspace, 7.0)  # on its way into the ledger
    before = len(journal.read("tiny"))
    plan = collect("tiny", NOW, "ann", dry_run=True)
    assert len(journal.read("tiny")) == before
    done = collect("tiny", NOW, "ann", dry_run=False)
    assert (plan.releases, plan.bytes, plan.objects) == (done.releases, done.bytes, done.objects)
    assert set(done.releases) == {old.digest, refused.digest}
    assert done.bytes > 0
    for release in (held, previous, champion, waiting, unnamed):
        workspace.release("tiny", release.digest)
    for release in (old, refused):
        assert not list(workspace.store().list(f"releases/tiny/{release.digest}/"))
    assert "lawsuit" in done.kept[held.digest]
    assert set(done.versions) == {old.version, refused.version}
    assert journal.read("tiny")[-1].kind is EntryKind.COLLECTED
    assert verify("tiny") == []
    assert collect("tiny", NOW, "ann", dry_run=False).releases == ()
    with pytest.raises(Refused, match="removed"):
        promoting.roll_back("tiny", old.version, "bob", "try", "r1")
    assert promoting.roll_back("tiny", held.version, "bob", "try", "r2") == held


def test_what_came_back_while_a_collection_looked_around_stays(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _, _ = promoted(workspace, 1.0, 2.0, 3.0)
    look_around = collecting._bundles

    def rolled_back_meanwhile(model: str) -> Mapping[Digest, Sequence[Listed]]:
        promoting.roll_back(model, old.version, "bob", "users complain", "r1")
        return look_around(model)

    monkeypatch.setattr(collecting, "_bundles", rolled_back_meanwhile)
    assert old.digest not in collect("tiny", NOW, "ann", dry_run=False).releases
    assert history.champion_of("tiny") == old
    assert verify("tiny") == []


def test_what_is_collected_is_promoted_only_once_it_was_written_again(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _, champion = promoted(workspace, 1.0, 2.0, 3.0)
    verified = promoting.servable

    def collected_meanwhile(release: ReleaseRef) -> ReleaseRef:
        answer = verified(release)
        collect("tiny", NOW, "ann", dry_run=False)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(promoting, "servable", collected_meanwhile)
        with pytest.raises(Refused, match="removed"):
            promoting.promote(old, champion.version, "ann", "try")
    with pytest.raises(Refused, match="removed"):
        promoting.promote(old, champion.version, "ann", "try")
    again = released(workspace, 1.0)
    assert again.digest == old.digest
    with pytest.raises(Refused, match="may still remove it"):
        promoting.promote(again, champion.version, "ann", "built again at once")
    monkeypatch.setattr(policy, "REMOVING", timedelta(0))
    promoting.promote(again, champion.version, "ann", "built again")
    assert history.champion_of("tiny") == again
    assert verify("tiny") == []


def test_what_is_written_again_while_it_is_removed_is_promoted_only_once_it_is_whole(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _, champion = promoted(workspace, 1.0, 2.0, 3.0)
    first_look = collecting._manifest_first

    def written_again_meanwhile(items: Sequence[Listed]) -> Sequence[Listed]:
        released(workspace, 1.0)
        journal.commit("tiny", entries.approval_requested, old, champion.version, "a", "try")
        return first_look(items)

    with monkeypatch.context() as patch:
        patch.setattr(collecting, "_manifest_first", written_again_meanwhile)
        patch.setattr(collecting._Tally, "remove", lambda *_: None)  # it is about to
        collect("tiny", NOW, "ann", dry_run=False)
    with pytest.raises(Refused, match="may still remove it"):
        promoting.promote(old, champion.version, "ann", "try")
    key = layout.release_file("tiny", old.digest, "graph.onnx")
    workspace.store().delete(key)  # by the collection, which had listed it before
    monkeypatch.setattr(policy, "REMOVING", timedelta(0))
    with pytest.raises(NotFound):
        promoting.promote(old, champion.version, "ann", "try")
    assert history.champion_of("tiny") == champion


def test_a_collection_that_takes_too_long_leaves_the_rest_to_the_next(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _, _ = promoted(workspace, 1.0, 2.0, 3.0)
    with monkeypatch.context() as patch:
        patch.setattr(policy, "REMOVING", timedelta(0))
        assert not collect("tiny", NOW, "ann", dry_run=False).objects
    assert list(workspace.store().list(layout.release_file("tiny", old.digest, "")))
    assert collect("tiny", NOW, "ann", dry_run=False).releases == (old.digest,)
    assert not list(workspace.store().list(layout.release_file("tiny", old.digest, "")))


def test_what_was_written_again_is_not_collected_on_its_way_into_the_ledger(
    workspace: Settings,
) -> None:
    old, _, _ = promoted(workspace, 1.0, 2.0, 3.0)
    collect("tiny", NOW, "ann", dry_run=False)
    again = released(workspace, 1.0)
    assert again.digest == old.digest
    day = Policy(depth=1, age=timedelta(days=1))
    assert collect("tiny", day, "ann", dry_run=False).releases == ()
    assert workspace.release("tiny", again.digest).file("graph.onnx")


def test_a_restore_leaves_out_what_was_collected(workspace: Settings) -> None:
    old, _, champion = promoted(workspace, 1.0, 2.0, 3.0)
    assert collect("tiny", NOW, "ann", dry_run=False).releases == (old.digest,)
    reconciling.reconcile("tiny")
    assert restore("tiny") == ()
    assert history.champion_of("tiny") == champion


def test_a_collection_that_was_killed_is_finished_by_the_next(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _, _ = promoted(workspace, 1.0, 2.0, 3.0)
    store, removed = workspace.store(), []

    def dies(key: str) -> None:
        removed.append(key)
        if len(removed) == 2:
            raise KeyboardInterrupt
        type(store).delete(store, key)

    monkeypatch.setattr(store, "delete", dies)
    with pytest.raises(KeyboardInterrupt):
        collect("tiny", NOW, "ann", dry_run=False)
    monkeypatch.undo()
    assert removed[0].endswith("manifest.json"), "no half of a bundle is ever found"
    with pytest.raises(Refused, match="removed"):
        promoting.roll_back("tiny", old.version, "bob", "try", "r1")
    collect("tiny", NOW, "ann", dry_run=False)
    assert not list(store.list(f"releases/tiny/{old.digest}/"))
    assert verify("tiny") == []


def test_what_a_run_makes_again_goes_with_age(workspace: Settings) -> None:
    promoted(workspace, 1.0)
    store = workspace.store()
    keys = [
        layout.candidate_file("tiny", "c", "graph.onnx"),
        layout.verdict("tiny", "d" * 64),
        layout.report("tiny", "e" * 64, "lenses.html"),
    ]
    for key in keys:
        store.put(key, json.dumps({}).encode())
    month = Policy(depth=1, age=timedelta(days=30))
    assert collect("tiny", month, "ann", dry_run=False).objects == {}
    assert set(collect("tiny", NOW, "ann", dry_run=False).objects) == {
        "candidate",
        "verdict",
        "report",
    }
    assert not [key for key in keys if store.exists(key)]
