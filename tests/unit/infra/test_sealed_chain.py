"""Entries of a log are signed, and whoever rewrites it without the key is noticed and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.canonical import canonical, sha256
from infra.chain import Chain
from infra.errors import Tampered
from infra.keys.private import Signer
from infra.keys.public import TrustedKeys
from infra.keys.seal import Seal
from tests.unit.infra.test_chain import MemoryStore

LOG = "ledger/m"


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.create(tmp_path / "k.pem")


def sealed(store: MemoryStore, signer: Signer, *trusted: Signer, log: str = LOG) -> Chain:
    keys = TrustedKeys(key.verifier() for key in (trusted or (signer,)))
    return Chain(store, log, seal=Seal(lambda: signer, lambda: keys))  # type: ignore[arg-type]


def forged(store: MemoryStore, number: int, **fields: object) -> None:
    """Rewrite an entry so that its digest is right, as who may write to the store can."""
    key = f"{LOG}/{number:08d}.json"
    entry = {**json.loads(store.objects[key]), **fields}
    covered = {name: entry[name] for name in ("version", "number", "time", "previous", "body")}
    store.objects[key] = canonical({**entry, "digest": sha256(canonical(covered))})


def test_what_was_signed_is_read_back_with_the_key_that_signed(signer: Signer) -> None:
    store = MemoryStore()
    for number in range(3):
        sealed(store, signer).append({"n": number}, expect=number)
    links = sealed(store, signer).read()
    assert [link.body for link in links] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert {link.key for link in links} == {signer.verifier().key_id}
    assert list(sealed(store, signer).faults()) == []


def test_a_rewritten_head_is_refused_whatever_its_digest_says(signer: Signer) -> None:
    store = MemoryStore()
    sealed(store, signer).append({"champion": "1"})
    forged(store, 1, body={"champion": "666"})
    with pytest.raises(Tampered, match="no signature of a trusted key"):
        sealed(store, signer).read()
    with pytest.raises(Tampered, match="no signature of a trusted key"):
        sealed(store, signer).append({"champion": "2"})
    assert len(list(sealed(store, signer).faults())) == 1


def test_a_history_that_another_key_rewrote_is_refused(signer: Signer, tmp_path: Path) -> None:
    store, thief = MemoryStore(), Signer.create(tmp_path / "thief.pem")
    for number in range(2):
        sealed(store, thief).append({"champion": str(number)})
    with pytest.raises(Tampered, match="trusted key"):
        sealed(store, signer).read()


def test_signatures_cannot_be_left_off_once_there_were_some(signer: Signer) -> None:
    store = MemoryStore()
    sealed(store, signer).append({"n": 1})
    Chain(store, LOG).append({"n": 2})  # type: ignore[arg-type]
    with pytest.raises(Tampered, match="not signed"):
        sealed(store, signer).read()


def test_an_entry_of_another_log_is_refused(signer: Signer) -> None:
    store = MemoryStore()
    sealed(store, signer, log="ledger/other").append({"champion": "1"})
    store.objects[f"{LOG}/00000001.json"] = store.objects.pop("ledger/other/00000001.json")
    with pytest.raises(Tampered, match="trusted key"):
        sealed(store, signer).read()


def test_entries_of_before_signatures_are_vouched_for_by_those_after(signer: Signer) -> None:
    store = MemoryStore()
    Chain(store, LOG).append({"n": 1})  # type: ignore[arg-type]
    assert len(sealed(store, signer).read()) == 1
    sealed(store, signer).append({"n": 2})
    assert [link.key for link in sealed(store, signer).read()] == [None, signer.verifier().key_id]
    forged(store, 1, body={"n": 0})
    with pytest.raises(Tampered, match="does not follow"):
        sealed(store, signer).read()


def test_a_key_that_was_retired_still_stands_in_the_history_and_signs_no_more(
    signer: Signer, tmp_path: Path
) -> None:
    store, new = MemoryStore(), Signer.create(tmp_path / "new.pem")
    sealed(store, signer).append({"n": 1})
    sealed(store, new, signer, new).append({"n": 2})
    assert len(sealed(store, new).read()) == 2
    assert list(sealed(store, new).faults()) == []
    sealed(store, signer, signer, new).append({"n": 3})
    with pytest.raises(Tampered, match="Entry 3"):
        sealed(store, new).read()


@pytest.mark.parametrize(
    "name", ["note.txt", "00000001.json.bak", "000000001.json", "00000000.json", ".DS_Store"]
)
def test_a_stray_file_in_the_folder_is_ignored_and_reported(signer: Signer, name: str) -> None:
    store = MemoryStore()
    sealed(store, signer).append({"n": 1})
    store.objects[f"{LOG}/{name}"] = b"{}"
    assert len(sealed(store, signer).read()) == 1
    sealed(store, signer).append({"n": 2})
    assert sealed(store, signer).strays() == (f"{LOG}/{name}",)
    assert list(sealed(store, signer).faults()) == [
        f"The log {LOG} holds {LOG}/{name}, which is no entry of it."
    ]


def test_every_fault_is_named(signer: Signer) -> None:
    store = MemoryStore()
    for number in range(6):
        sealed(store, signer).append({"n": number}, expect=number)
    del store.objects[f"{LOG}/00000002.json"]
    store.objects[f"{LOG}/00000004.json"] = b"no json"
    forged(store, 6, body={"n": 9})
    faults = list(sealed(store, signer).faults())
    assert [fault.split(":")[0] for fault in faults] == [
        f"The log {LOG} lacks entry 2.",
        f"The entry {LOG}/00000004.json is not JSON",
        f"Entry 6 of the log {LOG} bears no signature of a trusted key (it names "
        f"{signer.verifier().key_id})",
    ]
