"""Bodies of requests, unpacked within a bound: a small body may hold a large one."""

from __future__ import annotations

import zlib

from infra.errors import BadInput

_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Encoding (RFC 9110, section 8.4.1) -> zlib's window bits."""

MOST_NESTED = 2**20
"""Lists and objects of a JSON body: each takes longer than a number, while others wait."""


class TooLarge(BadInput):
    """A body above the limit."""


class Unpacking:
    """One body, as it comes."""

    def __init__(self, encoding: str, most_bytes: int) -> None:
        """Begin a body; raises `BadInput` where its encoding is not read."""
        name = encoding.strip().lower() or "identity"
        if name != "identity" and name not in _WINDOW:
            raise BadInput(f"the body is of {encoding}: send it plain, or by gzip or deflate")
        self._name, self._most, self._size = name, most_bytes, 0
        self._stream = None if name == "identity" else zlib.decompressobj(_WINDOW[name])

    def add(self, chunk: bytes) -> bytes:
        """Return what a chunk holds.

        Raises:
            TooLarge: The body is larger than allowed.
            BadInput: It is not compressed as it says.
        """
        if self._stream is not None and chunk:
            try:
                data = self._stream.decompress(chunk, self._most + 1 - self._size)
            except zlib.error as error:
                raise BadInput(f"the body is no {self._name} ({error})") from None
            if self._stream.unused_data:
                raise BadInput(f"behind the {self._name} of the body lie further bytes")
        else:
            data = chunk
        self._size += len(data)
        if self._size > self._most:
            raise TooLarge(f"the body is larger than {self._most} bytes: send fewer at a time")
        return data

    def finish(self) -> bytes:
        """Return the rest; raises `BadInput` where the body breaks off."""
        if self._stream is None:
            return b""
        if not self._stream.eof:
            raise BadInput(f"the {self._name} of the body breaks off")
        return b""


def require_flat(document: bytes) -> None:
    """Raise `BadInput` for JSON of more lists and objects than are read, before it is parsed."""
    if document.count(b"[") + document.count(b"{") > MOST_NESTED:
        raise BadInput(f"the body has more than {MOST_NESTED} lists and objects: send fewer")
