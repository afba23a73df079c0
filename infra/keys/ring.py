"""The keys of a workspace: the one that signs, and the public ones whose signatures count.

    keys/signing.pem          the private key, where no setting names another place
    keys/trusted/KEYID.pem    public keys that signed here, or were trusted by hand

A key is made once, for a workspace that has never signed. A private key that is missing afterwards
is an error: another one in its place would void every signature without a word.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex

from infra.errors import BadInput, NotFound, Refused
from infra.keys.kms import KmsKey
from infra.keys.private import ENVIRONMENT, KMS, Signer, SigningKey
from infra.keys.public import TrustedKeys, Verifier, read_public_key

_PRIVATE, _TRUSTED = "signing.pem", "trusted"


class KeyRing:
    """Where the keys of one workspace are."""

    def __init__(
        self, folder: Path, private: str | None = None, trusted: str | None = None
    ) -> None:
        """Name the places.

        Args:
            folder: The workspace's `keys`.
            private: A file, `env:NAME` or `awskms:KEY`; None is the file in the folder.
            trusted: Public keys, files or folders of them, separated as in `PATH`; then no other
                counts, and no private key is needed to verify.
        """
        self._folder = folder
        self._private = private
        self._trusted = trusted

    @property
    def path(self) -> Path:
        """The file of the private key; where it is elsewhere, the file that is not used."""
        if self._private is None or self._is_elsewhere:
            return self._folder / _PRIVATE
        return Path(self._private)

    @property
    def place(self) -> str:
        """Where the private key is, for people."""
        return str(self._private) if self._is_elsewhere else str(self.path)

    @property
    def _is_elsewhere(self) -> bool:
        return (self._private or "").startswith((ENVIRONMENT, KMS))

    def signer(self, has_signed: Callable[[], bool]) -> SigningKey:
        """Open the private key, or make it in a workspace that never signed.

        Args:
            has_signed: Asks the store whether anything was signed; only called without a key.

        Raises:
            BadInput: The key is missing, damaged, or another one than signed here.
            Unavailable: The key management service does not answer.
        """
        if self._private is None and not self.path.exists():
            self._make(has_signed)
        key = self._opened()
        self._remember(key.verifier())
        return key

    def verifier(self) -> TrustedKeys:
        """Return the keys whose signatures count; raises `BadInput`, `Unavailable`."""
        if self._trusted is not None:
            places = [Path(place) for place in self._trusted.split(os.pathsep) if place]
            return TrustedKeys(map(read_public_key, _pem_files(places)))
        kept = self._kept()
        if self._private is not None and (not kept or not self._private.startswith(KMS)):
            kept = [*kept, self._opened().verifier()]
        elif self._private is None and not kept and self.path.exists():
            kept = [self._opened().verifier()]  # a workspace of an earlier version of Requant
        return TrustedKeys(kept)

    def rotate(self) -> tuple[str | None, str]:
        """Replace the private key in the folder by a new one; return the ids before and after.

        The public half of the one before stays trusted, and its private half is destroyed.

        Raises:
            BadInput: The private key is not in the folder: rotate it where it is.
        """
        if self._private is not None:
            raise BadInput(
                f"The signing key is {self.place}: make the next one there, point "
                "REQUANT_SIGNING_KEY at it, and keep the one before by `requant keys trust`."
            )
        before = None
        if self.path.exists():
            public = self._opened().verifier()
            self._keep(public)
            before = public.key_id
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self.path.with_name(f".{_PRIVATE}.next")
        fresh.unlink(missing_ok=True)
        after = Signer.create(fresh).verifier()
        self._keep(after)  # first: a kill in between leaves a trusted key that signs nothing
        fresh.replace(self.path)
        return before, after.key_id

    def trust(self, path: Path) -> str:
        """Trust a public key in a PEM file; return its id; raises `BadInput`."""
        public = read_public_key(path)
        self._keep(public)
        return public.key_id

    def retire(self, key_id: str) -> None:
        """Trust a key no longer.

        Raises:
            NotFound: It is not trusted.
            Refused: It is the one that signs.
        """
        kept = {public.key_id for public in self._kept()}
        if key_id not in kept:
            raise NotFound(f"No key {key_id} is trusted here: `requant keys show` lists them.")
        if (self._private is not None or self.path.exists()) and (
            self._opened().verifier().key_id == key_id
        ):
            raise Refused(f"The key {key_id} signs here: `requant keys rotate` first.")
        (self._folder / _TRUSTED / f"{key_id}.pem").unlink()

    def _opened(self) -> SigningKey:
        name = self._private or ""
        if name.startswith(ENVIRONMENT):
            return Signer.from_environment(name.removeprefix(ENVIRONMENT))
        if name.startswith(KMS):
            return KmsKey(name.removeprefix(KMS))
        return Signer.from_pem(self.path)

    def _make(self, has_signed: Callable[[], bool]) -> None:
        if self._kept() or has_signed():
            raise BadInput(
                f"The signing key {self.path} is missing, and this store holds what was signed: "
                "restore the file from a backup, name it with REQUANT_SIGNING_KEY, or make a new "
                "key with `requant keys rotate`; `requant keys trust` the public key of the old "
                "one, or what it signed is refused."
            )
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self.path.with_name(f".{_PRIVATE}.{token_hex(8)}")
        Signer.create(partial)
        try:
            os.link(partial, self.path)
        except FileExistsError:
            return  # another process was first
        finally:
            partial.unlink()

    def _remember(self, public: Verifier) -> None:
        """Trust the key that signs; in the folder, only where none did before."""
        kept = {known.key_id for known in self._kept()}
        if public.key_id in kept:
            return
        if self._private is None and kept:
            raise BadInput(
                f"The signing key {self.path} is another one ({public.key_id}) than those trusted "
                f"here ({', '.join(sorted(kept))}): restore the right file, or `requant keys "
                "trust` its public key."
            )
        self._keep(public)

    def _keep(self, public: Verifier) -> None:
        folder = self._folder / _TRUSTED
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = folder / f".{public.key_id}.{token_hex(8)}"
        partial.write_bytes(public.pem)
        partial.replace(folder / f"{public.key_id}.pem")

    def _kept(self) -> list[Verifier]:
        return [read_public_key(path) for path in _pem_files([self._folder / _TRUSTED])]


def _pem_files(places: Sequence[Path]) -> list[Path]:
    """Return the files, and those of the folders, of names that end in `.pem`."""
    files: list[Path] = []
    for place in places:
        files += sorted(place.glob("[!.]*.pem")) if place.is_dir() else []
        files += [place] if place.is_file() else []
    return files
