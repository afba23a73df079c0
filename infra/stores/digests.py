"""Digests of stored objects that are not read again while nothing was written to them.

A digest is kept beside the object's stamp: size and times of a file, the entity tag of S3. Where
the stamp is the same, so are the bytes. What is kept lies in the workspace, not in the store that
it is about: whoever can write there cannot write here.
"""

from __future__ import annotations

import json
from pathlib import Path
from secrets import token_hex

from infra.stores.port import ObjectStore

_VERSION = 1
_MOST = 4096
"""Objects whose digests are kept, the ones asked for last."""


class DigestCache:
    """Digests by store and key, kept in one file of the workspace."""

    def __init__(self, path: Path | None) -> None:
        """Read what is kept; without a path, and from a file that cannot be read, nothing is."""
        self._path = path
        self._kept: dict[str, list[str]] = _read(path) if path else {}
        self._changed = False

    def digest(self, store: ObjectStore, key: str) -> str:
        """Return the SHA-256 of an object, read when its stamp is another than it was.

        Raises `NotFound`, `Unavailable`.
        """
        name, stamp = f"{store.url} {key}", store.stamp(key)
        kept = self._kept.pop(name, None)
        if not stamp or kept is None or kept[0] != stamp:
            kept, self._changed = [stamp, store.digest(key)], True
            if store.stamp(key) != stamp:  # written meanwhile: whose bytes were read?
                return kept[1]
        self._kept[name] = kept
        return kept[1]

    def approved(self, what: str) -> bool:
        """Return whether a judgement, named by digests of all that it rests on, was made before."""
        return self._kept.get(what) == ["", ""]

    def approve(self, what: str) -> None:
        """Keep such a judgement."""
        self._kept[what], self._changed = ["", ""], True

    def save(self) -> None:
        """Keep what is known for the next process."""
        if self._path is None or not self._changed:
            return
        newest = dict(list(self._kept.items())[-_MOST:])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(f".{token_hex(4)}")
        partial.write_text(json.dumps({"version": _VERSION, "digests": newest}))
        partial.replace(self._path)


def _read(path: Path) -> dict[str, list[str]]:
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != _VERSION:
            return {}
        return {
            str(name): [str(stamp), str(digest)]
            for name, (stamp, digest) in document["digests"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
