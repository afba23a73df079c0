"""Ledgers that the benchmark of the console's pages writes are whole, and are read as others."""

from benchmarks.orchestration.console_scale import prepare
from infra.settings import Settings
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import EntryKind


def test_every_model_was_promoted_again_and_again_and_its_ledger_verifies(
    workspace: Settings,
) -> None:
    prepare(workspace, 2, 12, 3)
    for model in ("model-000", "model-001"):
        entries = journal.read(model)
        kinds = [entry.kind for entry in entries]
        assert (len(kinds), kinds.count(EntryKind.PROMOTED)) == (12, 3)
        champion = ledger.champion(entries)
        assert champion is not None
        assert champion.version == "3"
        assert champion.release is not None
        workspace.release(model, champion.release)
