"""Ledgers that the benchmark of the console's pages writes are whole, and are read as others."""

from datetime import UTC, datetime

import pytest

from benchmarks.orchestration.console_scale import prepare
from flows.queries.console import entries, indexed
from flows.queries.console.entries import EntryFilter
from flows.queries.console.indexed import LedgerIndex
from infra.settings import Settings
from infra.stores.local import LocalStore
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import EntryKind


def test_every_model_was_promoted_again_and_again_and_its_ledger_verifies(
    workspace: Settings,
) -> None:
    models = ("model-000", "model-001")
    prepare(workspace, models, 12, 3)
    for model in models:
        history = journal.read(model)
        kinds = [entry.kind for entry in history]
        assert (len(kinds), kinds.count(EntryKind.PROMOTED)) == (12, 3)
        champion = ledger.champion(history)
        assert champion is not None
        assert champion.version == "3"
        assert champion.release is not None
        workspace.release(model, champion.release)


def test_a_page_of_a_long_ledger_costs_as_many_readings_as_it_shows_entries(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read = LocalStore.get

    def counted(store: LocalStore, key: str) -> bytes:
        nonlocal reads
        reads += key.startswith("ledger/")
        return read(store, key)

    prepare(workspace, ("one", "other"), indexed.LONG + 100, 3)
    index = LedgerIndex()
    monkeypatch.setattr(entries, "index", index)
    monkeypatch.setattr(index, "_list_soon", lambda model: None)
    assert entries.page_of(EntryFilter()).total == 2 * (indexed.LONG + 100)
    monkeypatch.setattr(LocalStore, "get", counted)
    for wanted, page in (
        (EntryFilter(), 1),
        (EntryFilter(), 9),
        (EntryFilter(kind="decided"), 1),
        (EntryFilter(text="fine"), 2),
        (EntryFilter(at=datetime.now(UTC).isoformat()), 3),
    ):
        reads = 0
        assert len(entries.page_of(wanted, page).entries) == entries.PAGE
        assert reads == entries.PAGE
    reads = 0
    rows = sum(piece.count("\n") for piece in entries.exported_csv(EntryFilter()))
    assert (rows, reads) == (2 * (indexed.LONG + 100) + 1, 0)
