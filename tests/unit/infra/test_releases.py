"""The release bundle: its address is its content, and no altered byte is handed out."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP384R1,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import BadInput, NotFound, Refused, Tampered
from infra.keys.private import Signer
from infra.keys.public import TrustedKeys
from infra.releases import read_release, write_release
from infra.stores.local import LocalStore
from tests.unit.infra.test_chain import MemoryStore

FILES = {"model.onnx": b"graph", "engines/sm89.plan": b"\x00plan"}
FACTS = {"recipe": "minmax", "targets": ["onnxruntime-cpu"], "versions": {"onnx": "1.21.0"}}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "store"))


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.create(tmp_path / "signing.pem")


def test_a_release_is_read_back_as_it_was_written(store: LocalStore) -> None:
    written = write_release(store, "minilm", FILES, FACTS, None)
    found = read_release(store, "minilm", written.digest)
    assert found == written
    assert found.facts == FACTS
    assert {name: found.file(name) for name in found.files} == FILES


def test_the_manifest_is_written_last(tmp_path: Path) -> None:
    order: list[str] = []

    class Noting(LocalStore):
        def put(self, key: str, data: bytes) -> None:
            order.append(key.rsplit("/", 1)[-1])
            super().put(key, data)

    write_release(Noting(str(tmp_path)), "m", FILES, {}, Signer.create(tmp_path / "k.pem"))
    assert order[-2:] == ["manifest.sig", "manifest.json"]


def test_an_interrupted_release_is_not_found(store: LocalStore) -> None:
    release = write_release(store, "m", FILES, {}, None)
    store.delete(f"releases/m/{release.digest}/manifest.json")
    with pytest.raises(NotFound):
        read_release(store, "m", release.digest)


def test_writing_the_same_release_twice_gives_the_same_one(store: LocalStore) -> None:
    first = write_release(store, "m", FILES, FACTS, None)
    keys = list(store.list(""))
    assert (
        write_release(
            store, "m", dict(reversed(FILES.items())), dict(reversed(FACTS.items())), None
        )
        == first
    )
    assert list(store.list("")) == keys


@pytest.mark.parametrize(
    ("model", "files", "facts"),
    [
        ("other", FILES, FACTS),
        ("m", {**FILES, "model.onnx": b"grapi"}, FACTS),
        ("m", FILES, {**FACTS, "recipe": "x"}),
    ],
)
def test_any_difference_gives_another_address(
    store: LocalStore, model: str, files: dict[str, bytes], facts: dict[str, object]
) -> None:
    other = write_release(store, model, files, facts, None)  # type: ignore[arg-type]  # a plain dict of JSON values
    assert other.digest != write_release(store, "m", FILES, FACTS, None).digest


@given(st.binary(min_size=1, max_size=64), st.data())
def test_a_flipped_bit_of_a_file_is_refused_and_the_file_named(
    content: bytes, data: st.DataObject
) -> None:
    store = MemoryStore()
    release = write_release(store, "m", {"model.onnx": content}, {}, None)
    key = f"releases/m/{release.digest}/model.onnx"
    raw = bytearray(content)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    store.objects[key] = bytes(raw)
    with pytest.raises(Tampered, match=r"model\.onnx"):
        read_release(store, "m", release.digest).file("model.onnx")


def test_a_changed_manifest_is_refused(store: LocalStore) -> None:
    release = write_release(store, "m", FILES, FACTS, None)
    key = f"releases/m/{release.digest}/manifest.json"
    store.put(key, store.get(key).replace(b"minmax", b"maxmin"))
    with pytest.raises(Tampered, match="manifest"):
        read_release(store, "m", release.digest)


def test_a_release_copied_under_another_models_name_is_refused(store: LocalStore) -> None:
    release = write_release(store, "m", FILES, FACTS, None)
    manifest = store.get(f"releases/m/{release.digest}/manifest.json")
    store.put(f"releases/other/{release.digest}/manifest.json", manifest)
    with pytest.raises(Tampered, match="belongs to m"):
        read_release(store, "other", release.digest)


def test_a_signed_release_passes_its_own_key(store: LocalStore, signer: Signer) -> None:
    release = write_release(store, "m", FILES, FACTS, signer)
    found = read_release(store, "m", release.digest, signer.verifier())
    assert found.signed_by == signer.verifier().key_id
    assert read_release(store, "m", release.digest).signed_by is None  # nobody checked


def test_signing_does_not_change_the_address(store: LocalStore, signer: Signer) -> None:
    unsigned = write_release(store, "m", FILES, FACTS, None)
    assert write_release(store, "m", FILES, FACTS, signer).digest == unsigned.digest


def test_an_unsigned_release_is_refused_where_a_signature_is_demanded(
    store: LocalStore, signer: Signer
) -> None:
    release = write_release(store, "m", FILES, FACTS, None)
    with pytest.raises(Refused, match="not signed"):
        read_release(store, "m", release.digest, signer.verifier())


def test_a_signature_by_another_key_is_refused(
    store: LocalStore, signer: Signer, tmp_path: Path
) -> None:
    release = write_release(store, "m", FILES, FACTS, signer)
    with pytest.raises(Tampered, match="signature"):
        read_release(store, "m", release.digest, Signer.create(tmp_path / "other.pem").verifier())


@pytest.mark.parametrize(
    "forged", [b"", b"null", b"{}", b'{"signature":"AAAA"}', b'{"signature":"?"}', b"\xff"]
)
def test_a_broken_signature_file_is_refused(
    store: LocalStore, signer: Signer, forged: bytes
) -> None:
    release = write_release(store, "m", FILES, FACTS, signer)
    store.put(f"releases/m/{release.digest}/manifest.sig", forged)
    with pytest.raises(Tampered, match="signature"):
        read_release(store, "m", release.digest, signer.verifier())


def test_the_signature_is_plain_ecdsa_over_the_manifest(
    store: LocalStore, signer: Signer, tmp_path: Path
) -> None:
    release = write_release(store, "m", FILES, FACTS, signer)
    signed = json.loads(store.get(f"releases/m/{release.digest}/manifest.sig"))
    assert (signed["algorithm"], signed["version"]) == ("ecdsa-p256-sha256", 1)
    public = load_pem_public_key(signer.verifier().pem)
    manifest = store.get(f"releases/m/{release.digest}/manifest.json")
    public.verify(base64.b64decode(signed["signature"]), manifest, ECDSA(SHA256()))


def test_a_release_that_an_ed25519_key_signed_still_loads(
    store: LocalStore, tmp_path: Path
) -> None:
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    old = Ed25519PrivateKey.generate()
    (tmp_path / "old.pem").write_bytes(old.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    signer = Signer.from_pem(tmp_path / "old.pem")
    release = write_release(store, "m", FILES, FACTS, signer)
    trusted = TrustedKeys([Signer.create(tmp_path / "new.pem").verifier(), signer.verifier()])
    assert read_release(store, "m", release.digest, trusted).signed_by == signer.verifier().key_id
    assert not store.exists(f"releases/m/{release.digest}/model.sig"), "it takes P-256 alone"


def test_a_key_is_read_from_its_file_which_is_its_owners_alone(
    signer: Signer, tmp_path: Path
) -> None:
    assert Signer.from_pem(tmp_path / "signing.pem").verifier().key_id == signer.verifier().key_id
    assert stat.S_IMODE((tmp_path / "signing.pem").stat().st_mode) == 0o600


def test_a_signing_key_is_never_overwritten(signer: Signer, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="name a new file"):
        Signer.create(tmp_path / "signing.pem")


def test_a_file_that_holds_another_kind_of_key_is_bad_input(tmp_path: Path) -> None:
    other = generate_private_key(SECP384R1())
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "ec.pem").write_bytes(other.private_bytes(pem, pkcs8, plain))
    (tmp_path / "text.pem").write_text("no key")
    for name in ("ec.pem", "text.pem", "absent.pem"):
        with pytest.raises(BadInput, match="P-256"):
            Signer.from_pem(tmp_path / name)


def test_a_file_that_the_release_does_not_have_is_not_found(store: LocalStore) -> None:
    with pytest.raises(NotFound, match=r"it has \['engines/sm89.plan', 'model.onnx'\]"):
        write_release(store, "m", FILES, FACTS, None).file("other.plan")


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "model.sig", "../x", "/x", ""])
def test_a_file_name_that_would_collide_or_leave_is_bad_input(store: LocalStore, name: str) -> None:
    with pytest.raises(BadInput):
        write_release(store, "m", {name: b""}, {}, None)


@pytest.mark.parametrize("model", ["", "a/b", "..", "a b"])
def test_a_model_name_that_cannot_be_part_of_a_key_is_bad_input(
    store: LocalStore, model: str
) -> None:
    with pytest.raises(BadInput):
        write_release(store, model, FILES, {}, None)
    with pytest.raises(BadInput):
        read_release(store, model, "0" * 64)


def test_what_is_no_digest_is_bad_input(store: LocalStore) -> None:
    with pytest.raises(BadInput):
        read_release(store, "m", "../../secrets")
