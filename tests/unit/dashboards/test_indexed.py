"""An index finds entries of all ledgers, and shows them as the store has them."""

import csv
import io
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from benchmarks.orchestration.console import named_spec
from flows.queries.console import entries, indexed, overview
from flows.queries.console.entries import EntryFilter
from flows.queries.console.indexed import LedgerIndex
from infra.canonical import Json, canonical
from infra.chain import Chain, _decode, _digest, _encode
from infra.errors import Unavailable
from infra.keys.seal import Seal
from infra.settings import Settings
from infra.stores import layout
from infra.stores.entry_table import RowFilter
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import EntryKind, LedgerEntry, body

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
MODELS = ("alpha", "beta")
RELEASES = ("a" * 64, "b" * 64)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> LedgerIndex:
    """Return an index of a process that just began, for which every ledger is a long one."""
    monkeypatch.setattr(indexed, "LONG", 0)
    monkeypatch.setattr(indexed, "PACE", 0.0)
    fresh = LedgerIndex()
    for module in (entries, overview):
        monkeypatch.setattr(module, "index", fresh)
    return fresh


@pytest.fixture
def ledgers(workspace: Settings) -> Settings:
    """Register two models, and let each live through promotions, decisions and a lost registry."""
    for place, model in enumerate(MODELS):
        spec, digest = named_spec(model).encode(), f"{place:064x}"
        store = workspace.store()
        store.put(layout.registration_file(model, digest, "spec.yaml"), spec)
        store.put(layout.registration_in_use(model), canonical({"version": 1, "digest": digest}))
        for number, (kind, version, release) in enumerate(
            (
                (EntryKind.PROMOTED, "1", RELEASES[0]),
                (EntryKind.DECIDED, None, None),
                (EntryKind.PROMOTED, "2", RELEASES[1]),
                (EntryKind.ROLLED_BACK, "1", RELEASES[0]),
                (EntryKind.DECIDED, None, None),
                (EntryKind.REGISTERED, None, None),
            )[: 6 - place]
        ):
            details: dict[str, Json] = {"window": f"w{number}", "action": "keep"}
            if kind is EntryKind.REGISTERED:
                details = {"numbers": {RELEASES[0]: "7"}}
            append(
                workspace,
                model,
                body(
                    kind,
                    actor=("Ada", "schedule")[number % 2],
                    reason=f"Straße {number} of {model}",
                    version=version,
                    release=release,
                    details=details,
                ),
                BEGIN + timedelta(hours=2 * number + place),
            )
    return workspace


def append(
    chosen: Settings, model: str, entry: dict[str, Json], when: datetime | None = None
) -> None:
    prefix, seal = layout.ledger(model), Seal(chosen.signer, chosen.verifier)
    time = when or datetime.now(UTC)
    Chain(chosen.store(), prefix, clock=lambda: time, seal=seal).append(entry)


def kept(model: str, number: int) -> str:
    return f"{layout.ledger(model)}/{number:08d}.json"


def plain(wanted: EntryFilter) -> list[tuple[str, int]]:
    """Return what a filter lets through, by reading every ledger whole."""
    until = datetime.fromisoformat(wanted.at).replace(tzinfo=UTC) if wanted.at else None
    chosen = [
        (entry.time, model, entry.number)
        for model in MODELS
        for entry in journal.read(model)
        if (until is None or entry.time <= until)
        and wanted.model in ("", model)
        and wanted.kind in ("", entry.kind)
        and wanted.actor in ("", entry.actor)
        and wanted.version in ("", entry.version)
        and wanted.text.casefold() in entry.reason.casefold()
    ]
    return [(model, number) for _, model, number in sorted(chosen, reverse=True)]


FILTERS = (
    EntryFilter(),
    EntryFilter("alpha"),
    EntryFilter(kind="decided"),
    EntryFilter("beta", "promoted", "Ada"),
    EntryFilter(actor="schedule", version="1"),
    EntryFilter(text="straßE 3"),
    EntryFilter(text="OF Beta"),
    EntryFilter(text="%"),
    EntryFilter(at="2026-03-01T05:00"),
    EntryFilter("alpha", "decided", "schedule", "", "of ALPHA", "2026-03-01T05:00"),
    EntryFilter(version="nobody's"),
)


def test_every_filter_finds_what_reading_all_ledgers_finds(
    index: LedgerIndex, ledgers: Settings
) -> None:
    for wanted in FILTERS:
        pages = [entries.page_of(wanted, number, 4) for number in range(1, 4)]
        shown = {(view.model, view.number): view for page in pages for view in page.entries}
        assert [*shown] == plain(wanted)
        assert {page.total for page in pages} == {len(shown)}
        exported = list(csv.DictReader(io.StringIO("".join(entries.exported_csv(wanted)))))
        assert [(row["model"], int(row["number"])) for row in exported] == [*shown]
        assert [row["time"] for row in exported] == [view.time for view in shown.values()]
        document = json.loads("".join(entries.exported_json(wanted)))
        assert [entry["details"] for entry in document["entries"]] == [
            view.details for view in shown.values()
        ]


@pytest.mark.parametrize(
    ("hours", "champions"),
    [
        (-1, {}),
        (0, {"alpha": "1"}),
        (5, {"alpha": "2", "beta": "2"}),
        (7, {"alpha": "1", "beta": "1"}),
        (20, {"alpha": "7", "beta": "1"}),
    ],
)
def test_who_served_at_a_moment_is_told_by_the_number_of_then(
    index: LedgerIndex, ledgers: Settings, hours: int, champions: dict[str, str]
) -> None:
    moment = (BEGIN + timedelta(hours=hours)).isoformat()
    assert entries.page_of(EntryFilter(at=moment)).champions == champions


def test_a_glance_at_a_long_ledger_is_that_of_the_whole(
    index: LedgerIndex, ledgers: Settings
) -> None:
    asked = body(
        EntryKind.APPROVAL_REQUESTED, actor="Ada", reason="look", version="9", release="c" * 64
    )
    for _ in range(2):
        for row in overview.rows(None):
            assert row.glance == overview.glance_of(journal.read(row.name))
        append(ledgers, "alpha", asked)  # what is appended is seen by the next page


def test_what_was_appended_is_seen_at_once_and_verified(
    index: LedgerIndex, ledgers: Settings
) -> None:
    assert entries.page_of(EntryFilter()).total == 11
    append(ledgers, "beta", body(EntryKind.REFUSED, actor="Ada", reason="too slow"))
    newest = entries.page_of(EntryFilter()).entries[0]
    assert (newest.model, newest.number, newest.reason) == ("beta", 6, "too slow")
    ledgers.store().put(kept("beta", 7), ledgers.store().get(kept("beta", 6)))
    page = entries.page_of(EntryFilter())
    assert {view.model for view in page.entries} == {"alpha"}
    assert "beta" in page.unreadable


def rewritten(store_key: str, data: bytes) -> bytes:
    return data.replace(b"of alpha", b"of omega")


def of_another_chain(store_key: str, data: bytes) -> bytes:
    """Return an entry that is whole in itself, as a forger without the key would write it."""
    link = _decode(data, store_key)
    forged = {**link.body, "reason": "forged"}
    digest = _digest(2, link.number, link.time, link.previous, forged)
    return _encode(replace(link, body=forged, digest=digest))


@pytest.mark.parametrize("forge", [rewritten, of_another_chain])
def test_a_forged_entry_is_never_shown_and_hides_its_ledger_at_the_next_listing(
    index: LedgerIndex,
    ledgers: Settings,
    monkeypatch: pytest.MonkeyPatch,
    forge: Callable[[str, bytes], bytes],
) -> None:
    assert entries.page_of(EntryFilter()).total == 11
    index._lister.submit(lambda: None).result(30)  # what was due is listed
    monkeypatch.setattr(index, "_list_soon", lambda model: None)
    store, key = ledgers.store(), kept("alpha", 3)
    store.put(key, forge(key, store.get(key)))
    page = entries.page_of(EntryFilter())
    assert ("alpha", 3) not in {(view.model, view.number) for view in page.entries}
    assert "alpha" in page.unreadable
    monkeypatch.setattr(index, "_list_soon", index._list)
    page = entries.page_of(EntryFilter())
    assert {view.model for view in page.entries} == {"beta"}
    assert "alpha" in page.unreadable


def test_entries_that_are_gone_hide_their_ledger_or_end_it_earlier(
    index: LedgerIndex, ledgers: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_list_soon", index._list)
    assert entries.page_of(EntryFilter()).total == 11
    ledgers.store().delete(kept("beta", 5))  # the newest: no chain can tell that
    assert entries.page_of(EntryFilter(model="beta")).total in (4, 5)
    assert entries.page_of(EntryFilter(model="beta")).total == 4
    ledgers.store().delete(kept("alpha", 2))
    page = entries.page_of(EntryFilter())
    page = entries.page_of(EntryFilter())
    assert (page.total, [*page.unreadable]) == (4, ["alpha"])


@pytest.mark.parametrize("damage", [b"not a database, by far", None, b""])
def test_an_index_that_is_damaged_or_gone_is_made_anew(
    index: LedgerIndex, ledgers: Settings, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    assert entries.page_of(EntryFilter()).total == 11
    (path,) = Path(ledgers.root, "verified").glob("*.sqlite")
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    monkeypatch.setattr(entries, "index", LedgerIndex())
    assert entries.page_of(EntryFilter()).total == 11


def test_an_index_that_cannot_be_written_is_told_with_its_cause(
    index: LedgerIndex, ledgers: Settings
) -> None:
    Path(ledgers.root, "verified").write_text("a file")
    with pytest.raises(Unavailable, match="index of ledgers"):
        entries.page_of(EntryFilter())
    assert [row.glance.entries for row in overview.rows(None)] == [6, 5]


def test_a_page_does_not_wait_for_a_ledger_that_is_read_for_the_first_time(
    index: LedgerIndex, ledgers: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    read = journal.links

    def slow(model: str) -> object:
        begun.wait(30)
        return read(model)

    monkeypatch.setattr(journal, "links", slow)
    monkeypatch.setattr(entries, "PATIENCE_S", 0.05)
    page = entries.page_of(EntryFilter())
    assert (page.total, [*page.unreadable]) == (0, [*MODELS])
    assert "first time" in page.unreadable["alpha"]
    begun.set()
    monkeypatch.setattr(entries, "PATIENCE_S", 30.0)
    assert entries.page_of(EntryFilter()).total == 11


def test_an_export_comes_in_pieces(
    index: LedgerIndex, ledgers: Settings, monkeypatch: pytest.MonkeyPatch, browser: TestClient
) -> None:
    monkeypatch.setattr(entries, "PIECE", 2)
    assert len(list(entries.exported_csv(EntryFilter()))) > 5
    rows = browser.get("/audit/export.csv").text.splitlines()
    assert len(rows) == 12 + 2  # with the header, and the two entries of the console's own model


def test_a_link_to_an_entry_leads_to_the_page_that_holds_it(
    ledgers: Settings, monkeypatch: pytest.MonkeyPatch, browser: TestClient
) -> None:
    for _ in range(entries.PAGE):
        append(ledgers, "beta", body(EntryKind.REFUSED, actor="Ada", reason="too slow"))
    for number in (1, 5, 6, 55):
        page = browser.get("/audit", params={"model": "beta", "entry": number}).text
        assert f'id="entry-{number}"' in page
    assert browser.get("/audit", params={"model": "beta", "entry": 99}).status_code == 200


def entries_of(index: LedgerIndex, model: str) -> list[LedgerEntry]:
    rows = list(index.rows(RowFilter((model,))))
    return index.entries(rows)


def test_what_is_kept_of_a_ledger_is_what_its_journal_says(
    index: LedgerIndex, ledgers: Settings
) -> None:
    index.require("alpha")
    whole = journal.read("alpha")
    assert tuple(entries_of(index, "alpha")[::-1]) == whole
    assert index.acts("alpha") == tuple(
        entry for entry in whole if entry.kind is not EntryKind.DECIDED
    )
    assert index.champions(["alpha"]) == {"alpha": str(ledger.champion(whole).version)}  # type: ignore[union-attr]
