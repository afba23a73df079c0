from __future__ import annotations

from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind
from tasks.promotion.serving import incidents

RELEASE, OTHER = "a" * 64, "b" * 64


def test_traffic_leaves_a_release_once_and_comes_back_once(workspace: Settings) -> None:
    for _ in range(2):  # another replica saw the same
        journal.commit("m", incidents.fell_back, RELEASE, "full-precision", ["errors"], "why")
    entries = journal.read("m")
    assert [entry.kind for entry in entries] == [EntryKind.FELL_BACK]
    incident = incidents.open_incident(entries, RELEASE)
    assert incident is not None
    assert (incident.to, incident.reason) == ("full-precision", "why")
    assert incidents.open_incident(entries, OTHER) is None
    for _ in range(2):
        journal.commit("m", incidents.returned, RELEASE, "it kept its limits")
    entries = journal.read("m")
    assert [entry.kind for entry in entries] == [EntryKind.FELL_BACK, EntryKind.RETURNED]
    assert incidents.open_incident(entries, RELEASE) is None
    assert incidents.falls_of(entries, RELEASE) == 1
    assert incidents.latest_incident(entries) == incident
