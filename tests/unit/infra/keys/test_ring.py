"""A key is made once; afterwards a missing one is an error, and a replaced one stays trusted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import BadInput, NotFound, Refused, Tampered
from infra.keys.private import Signer
from infra.keys.public import TrustedKeys
from infra.keys.ring import KeyRing
from infra.releases import write_release
from infra.settings import Settings

FILES = {"graph.onnx": b"graph"}


def nothing_signed() -> bool:
    return False


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


def test_a_workspace_that_never_signed_makes_its_key_once(ring: KeyRing) -> None:
    first = ring.signer(nothing_signed).verifier().key_id
    assert ring.signer(nothing_signed).verifier().key_id == first
    assert ring.verifier().ids == (first,)
    assert ring.path.stat().st_mode & 0o077 == 0


def test_a_missing_key_is_an_error_that_says_how_to_restore_or_rotate(ring: KeyRing) -> None:
    ring.signer(nothing_signed)
    ring.path.unlink()
    with pytest.raises(BadInput, match=r"restore the file.*keys rotate"):
        ring.signer(nothing_signed)
    assert not ring.path.exists()


def test_a_lost_folder_of_keys_beside_a_store_with_releases_is_an_error(
    workspace: Settings,
) -> None:
    write_release(workspace.store(), "m", FILES, {}, workspace.signer())
    for path in sorted((workspace.root / "keys").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(BadInput, match="missing"):
        workspace.signer()


def test_another_key_in_the_place_of_the_right_one_is_refused(
    ring: KeyRing, tmp_path: Path
) -> None:
    ring.signer(nothing_signed)
    ring.path.unlink()
    Signer.create(ring.path)
    with pytest.raises(BadInput, match="another one"):
        ring.signer(nothing_signed)


def test_what_was_signed_before_a_rotation_loads_until_the_key_is_retired(
    workspace: Settings,
) -> None:
    old = write_release(workspace.store(), "m", FILES, {}, workspace.signer())
    before, after = workspace.keys().rotate()
    new = write_release(workspace.store(), "m", {"g": b"new"}, {}, workspace.signer())
    assert (before, after) == (old.signed_by, new.signed_by)
    for release in (old, new):
        assert workspace.release("m", release.digest).signed_by == release.signed_by
    with pytest.raises(Refused, match="signs here"):
        workspace.keys().retire(after)
    assert before is not None
    workspace.keys().retire(before)
    workspace.release("m", new.digest)
    with pytest.raises(Tampered, match="does not hold"):
        workspace.release("m", old.digest)
    with pytest.raises(NotFound):
        workspace.keys().retire(before)


def test_whoever_serves_needs_the_public_key_alone(
    workspace: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = write_release(workspace.store(), "m", FILES, {}, workspace.signer())
    public = tmp_path / "public.pem"
    public.write_bytes(workspace.signer().verifier().pem)
    host = Settings(
        workspace=tmp_path / "host", store_url=workspace.store_address, trusted_keys=str(public)
    )
    assert host.release("m", release.digest).signed_by == release.signed_by
    assert not (tmp_path / "host").exists()
    with pytest.raises(BadInput, match="missing"):
        host.signer()


def in_a_file(pem: bytes, folder: Path, _: pytest.MonkeyPatch) -> str:
    (folder / "outside.pem").write_bytes(pem)
    return str(folder / "outside.pem")


def in_the_environment(pem: bytes, _: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OUR_KEY", pem.decode())
    return "env:OUR_KEY"


def in_one_line_of_it(pem: bytes, _: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OUR_KEY", pem.decode().replace("\n", "\\n"))
    return "env:OUR_KEY"


@pytest.mark.parametrize("placed", [in_a_file, in_the_environment, in_one_line_of_it])
def test_a_private_key_outside_the_workspace_signs_and_is_not_copied_into_it(
    placed: Callable[[bytes, Path, pytest.MonkeyPatch], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signer = Signer.create(tmp_path / "made.pem")
    where = placed((tmp_path / "made.pem").read_bytes(), tmp_path, monkeypatch)
    chosen = Settings(workspace=tmp_path / "workspace", signing_key=where)
    release = write_release(chosen.store(), "m", FILES, {}, chosen.signer())
    assert release.signed_by == signer.verifier().key_id
    assert chosen.release("m", release.digest).signed_by == release.signed_by
    inside = [path for path in (tmp_path / "workspace").rglob("*") if path.is_file()]
    assert not [path for path in inside if b"PRIVATE" in path.read_bytes()]
    with pytest.raises(BadInput, match="there"):
        chosen.keys().rotate()


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(BadInput, match="NO_SUCH_KEY"):
        KeyRing(Path("nowhere"), "env:NO_SUCH_KEY").signer(nothing_signed)


def test_several_files_and_folders_of_public_keys_count(tmp_path: Path) -> None:
    keys = [Signer.create(tmp_path / f"{number}.pem").verifier() for number in range(3)]
    (tmp_path / "folder").mkdir()
    for key in keys[:2]:
        (tmp_path / "folder" / f"{key.key_id}.pem").write_bytes(key.pem)
    (tmp_path / "third.pem").write_bytes(keys[2].pem)
    places = os.pathsep.join((str(tmp_path / "folder"), str(tmp_path / "third.pem")))
    assert KeyRing(tmp_path, trusted=places).verifier().ids == TrustedKeys(keys).ids
