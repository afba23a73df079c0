"""Nothing of a tenant is left, whenever the process was killed; releases that held it are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, uuid5

import pytest

from flows.commands.forget import ERASERS, Forgotten, forget
from infra.errors import BadInput, NotFound
from infra.releases import write_release
from infra.settings import Settings
from infra.stores.layout import KINDS, Holds
from infra.stores.local import LocalStore
from tasks import erasure
from tasks.profiles import profile_window
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body
from tasks.records import Request
from tasks.traffic.masking import redacted
from tasks.traffic.rejects import Reject
from tasks.traffic.sources import Problem, SourceIntake, last_intake, write_last
from tasks.traffic.storage.codec import to_parquet
from tasks.traffic.storage.parts import STORED_WITHIN_S, write_traffic
from tasks.traffic.storage.windows import read_window
from tests.stored_kinds import kinds_of

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
PARTS = 5
"""Hours of the traffic, and profiles of them."""
SET = "c" * 64
WINDOW = "d" * 64


def requests() -> list[Request]:
    return [
        Request(
            f"r{i}",
            START + timedelta(minutes=9 * i),
            ("acme-ltd", "globex", "jo@acme-ltd.com")[i % 3],
            "docs",
            "en",
            f"t {i}",
        )
        for i in range(30)
    ]


@pytest.fixture
def stored(workspace: Settings) -> Settings:
    """Store a model with all that a tenant may be in.

    That is traffic, a window, a calibration set, a champion of it, rejects and a quarantine.
    """
    store = workspace.store()
    store.put("models/m/current", json.dumps({"version": 1, "digest": "x"}).encode())
    profile_window(store, "m", write_traffic(store, "m", requests()))
    kept = to_parquet([redacted(one) for one in requests()])
    for folder, digest in (("windows", WINDOW), ("calibration", SET)):
        store.put(f"{folder}/m/{digest}.parquet", kept)
        store.put(
            f"{folder}/m/{digest}.weights.json",
            json.dumps({f"r{i}": 1.0 for i in range(30)}).encode(),
        )
        store.put(f"{folder}/m/{digest}.json", b"{}")
    store.put(f"observations/m/1234-{SET}-ab.npz", b"rows")
    store.put(f"observations/m/1234-{SET}-seen-by-ab.npz", b"rows")
    store.put("observations/m/1234-other.npz", b"rows")
    for digest in (SET, WINDOW, "e" * 64):
        store.put(f"embeddings/m/5678-{digest[:32]}.npy", b"rows")
    project = uuid5(NAMESPACE_URL, "requant:m")
    snapshot = f"{project}/snapshots/{uuid5(project, WINDOW)}.json"
    (workspace.root / "evidently" / snapshot).parent.mkdir(parents=True)
    (workspace.root / "evidently" / snapshot).write_text("{}")
    store.put(f"reports/m/{WINDOW[:16]}/evidently.html", b"rows")
    lines = [
        {"raw": json.dumps({"tenant": "acme-ltd", "text": 7})},
        {"raw": json.dumps({"tenant": "globex"})},
    ]
    store.put("rejected/m/a.jsonl", "".join(json.dumps(one) + "\n" for one in lines).encode())
    entries = [{"request_id": "r3", "tenant": "acme-ltd"}, {"request_id": "r4", "tenant": "globex"}]
    store.put(
        f"quarantine/m/{WINDOW}.json", json.dumps({"version": 1, "entries": entries}).encode()
    )
    release = write_release(
        store, "m", {"scales.json": b"{}"}, {"calibration": SET}, workspace.signer()
    )
    write_release(store, "m", {"scales.json": b"{}"}, {"calibration": "e" * 64}, workspace.signer())
    promoted = body(EntryKind.PROMOTED, actor="a", reason="r", version="4", release=release.digest)
    journal.commit("m", lambda _: promoted)
    return workspace


def test_every_kind_that_holds_requests_is_covered_and_tried_here(stored: Settings) -> None:
    write_last(stored.store(), "m", SourceIntake("in", "/data/in", "2026-03-01T12:00:00+00:00"))
    holding = {kind for kind in KINDS if kind.holds is Holds.REQUESTS}
    kinds = {kind.name: kind for kind in KINDS}
    for kind in holding:
        assert {kind, *(kinds[source.kind] for source in kind.sources)} & set(ERASERS), kind
    rows = {kind for kind in KINDS if kind.holds is Holds.ROWS}
    assert all(kinds[source.kind] in ERASERS for kind in rows for source in kind.sources)
    keys = list(stored.store().list(""))
    assert holding | rows <= {kind for key in keys for kind in kinds_of(key)}


def everything(chosen: Settings) -> dict[str, bytes]:
    store = chosen.store()
    return {
        key: store.get(key)
        for key in store.list("")
        if not key.startswith(("ledger/", "forgetting/", "keys/"))
    }


def tenants(chosen: Settings) -> set[str]:
    return {one.tenant for one in read_window(chosen.store(), "m", hours=24).requests}


def test_a_tenant_is_gone_from_every_kind_of_object_and_the_others_are_whole(
    stored: Settings,
) -> None:
    (done,) = forget("m", tenant="acme-ltd", actor="dpo")
    assert done.removed == {
        "traffic": 10,
        "windows": 10,
        "calibration": 10,
        "derived": 6 + PARTS,
        "rejected": 1,
        "quarantine": 1,
    }
    assert tenants(stored) == {"globex", erasure.stored_name("jo@acme-ltd.com")}
    assert sum(1 for _ in read_window(stored.store(), "m", hours=24).requests) == 20
    left = everything(stored)
    assert not [key for key, data in left.items() if b"acme-ltd" in data]
    assert b"globex" in b"".join(data for key, data in left.items() if key.startswith("rejected/"))
    assert "observations/m/1234-other.npz" in left
    assert [key for key in left if key.startswith("embeddings/")] == [
        f"embeddings/m/5678-{'e' * 32}.npy"
    ]
    assert not list(stored.root.glob("evidently/**/*.json"))
    assert set(json.loads(left[f"windows/m/{WINDOW}.weights.json"])) == {
        f"r{i}" for i in range(30) if i % 3
    }


def test_the_release_is_named_with_version_and_alias_and_the_ledger_names_nobody(
    stored: Settings,
) -> None:
    (done,) = forget("m", tenant="acme-ltd", actor="dpo")
    (held,) = done.releases
    assert (held.version, held.aliases, held.calibration) == ("4", ("champion",), SET)
    assert "version 4 (champion)" in done.remains[-1]
    entry = journal.read("m")[-1]
    assert (entry.kind, entry.actor, entry.details["releases"]) == (
        EntryKind.FORGOTTEN,
        "dpo",
        [held.release],
    )
    assert "acme-ltd" not in str(entry)
    assert entry.details["pseudonym"] == done.pseudonym


def test_doing_it_again_finds_nothing_and_adds_no_entry(stored: Settings) -> None:
    forget("m", tenant="acme-ltd")
    before = journal.read("m"), everything(stored)
    (again,) = forget("m", tenant="acme-ltd")
    assert (again.removed, again.releases) == ({}, ())
    assert (journal.read("m"), everything(stored)) == before
    assert not list(stored.store().list("forgetting/"))


def test_one_request_is_forgotten_by_its_id(stored: Settings) -> None:
    (done,) = forget("m", request="r3")
    assert done.removed == {
        "traffic": 1,
        "windows": 1,
        "calibration": 1,
        "derived": 7,
        "quarantine": 1,
    }
    assert len(list(stored.store().list("profiles/m/"))) == PARTS - 1
    assert "r3" not in {
        one.request_id for one in read_window(stored.store(), "m", hours=24).requests
    }


def test_an_id_that_is_personal_data_is_found_under_its_pseudonym(stored: Settings) -> None:
    (done,) = forget("m", tenant="jo@acme-ltd.com")
    assert done.removed["traffic"] == 10
    assert tenants(stored) == {"acme-ltd", "globex"}


def test_what_a_gateway_still_held_is_forgotten_once_it_is_stored(
    stored: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def served(id: str) -> Request:
        return Request(id, datetime.now(UTC), "acme-ltd", "docs", "en", "said now")

    def wait(seconds: float) -> None:
        assert seconds > STORED_WITHIN_S
        write_traffic(stored.store(), "m", [served("later~5f3a9c02")])

    monkeypatch.setattr("time.sleep", wait)
    write_traffic(stored.store(), "m", [served("order-7~5f3a9c01")])
    assert forget("m", tenant="acme-ltd", actor="dpo")[0].removed["traffic"] == 12


def test_a_request_is_forgotten_by_the_id_that_its_caller_gave(
    stored: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    sent = ("order-7~5f3a9c01/0", "order-7~5f3a9c01/1", "order-77~5f3a9c03")
    rows = [Request(id, START, "globex", "docs", "en", f"text {id}") for id in sent]
    write_traffic(stored.store(), "m", rows)
    assert forget("m", request="order-7", actor="dpo")[0].removed["traffic"] == 2


@pytest.mark.parametrize("survived", range(24))
def test_killed_after_any_write_it_is_continued_by_whoever_forgets_next(
    stored: Settings, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    left = survived

    def dying(method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            method(*arguments)

        return call

    with monkeypatch.context() as patched:
        for name in ("put", "create", "delete"):
            patched.setattr(LocalStore, name, dying(getattr(LocalStore, name)))
        try:
            forget("m", tenant="acme-ltd")
        except KeyboardInterrupt:
            assert "globex" in tenants(stored)
    results: list[Forgotten] = forget("m", request="nobody")
    if survived:
        assert not [key for key, data in everything(stored).items() if b"acme-ltd" in data]
        assert sum(1 for _ in read_window(stored.store(), "m", hours=24).requests) == 20
        assert [one.kind for one in journal.read("m")].count(EntryKind.FORGOTTEN) == 1
    assert results[-1].kind == "request"
    assert not list(stored.store().list("forgetting/"))


def test_what_cannot_be_forgotten_is_said(stored: Settings) -> None:
    with pytest.raises(BadInput, match="exactly one of --tenant and --request"):
        forget("m")
    with pytest.raises(BadInput, match="exactly one"):
        forget("m", tenant="a", request="b")
    with pytest.raises(BadInput, match="has no name"):
        forget("m", tenant=" ")
    with pytest.raises(NotFound, match="no model is called 'n'"):
        forget("n", tenant="a")


def test_a_damaged_note_or_quarantine_is_named(stored: Settings) -> None:
    stored.store().put("forgetting/m/x.json", b"{")
    with pytest.raises(BadInput, match=r"forgetting/m/x\.json is no act of forgetting"):
        forget("m", tenant="acme-ltd")
    stored.store().delete("forgetting/m/x.json")
    stored.store().put("quarantine/m/y.json", b"[]")
    with pytest.raises(BadInput, match=r"quarantine/m/y\.json is no quarantine document"):
        forget("m", tenant="acme-ltd")


def test_a_rejected_record_is_searched_though_it_is_no_json(stored: Settings) -> None:
    from tasks.traffic.rejects import write_rejects

    write_rejects(
        stored.store(),
        "m",
        [Reject(1, "not JSON", '{"tenant": "acme-ltd", "text": "cut')],
        "f.jsonl",
    )
    (done,) = forget("m", tenant="acme-ltd")
    assert done.removed["rejected"] == 2


def test_a_file_that_is_called_by_the_tenant_is_named_no_more_and_sources_are_told_to_hold_the_data(
    stored: Settings,
) -> None:
    problems = tuple(
        Problem(name, "it is broken") for name in ("in/acme-ltd-2026.jsonl", "in/other.jsonl")
    )
    write_last(
        stored.store(),
        "m",
        SourceIntake("in", "/data/in", "2026-03-01T12:00:00+00:00", problems=problems),
    )
    line = {"source": "in/acme-ltd-2026.jsonl", "raw": "{"}
    stored.store().put("rejected/m/b.jsonl", json.dumps(line).encode() + b"\n")
    (done,) = forget("m", tenant="acme-ltd")
    assert (done.removed["intake"], done.removed["rejected"]) == (1, 2)
    (left,) = last_intake(stored.store(), "m")
    assert [one.name for one in left.problems] == ["in/other.jsonl"]
    assert any(
        "What lies in its sources (/data/in) is not touched" in line for line in done.remains
    )
