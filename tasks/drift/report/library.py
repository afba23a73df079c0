"""The script that all of Evidently's pages share: stored once, and put into a page to be shown.

It is nine tenths of a page: 3.5 of 3.9 MB.
"""

from __future__ import annotations

import re

from infra.canonical import sha256
from infra.errors import NotFound, Tampered
from infra.stores import layout
from infra.stores.port import ObjectStore

_MARK = re.compile(rb"/\*shared script ([0-9a-f]{64})\*/")


def without_library(page: bytes, library: bytes) -> bytes:
    """Return a page with a mark in the place of a script that it holds; as it is without one."""
    return page.replace(library, f"/*shared script {sha256(library)}*/".encode())


def keep_library(store: ObjectStore, library: bytes) -> None:
    """Store a script where it is not yet."""
    key = layout.report_library(sha256(library))
    if not store.exists(key):
        store.put(key, library)


def with_library(store: ObjectStore, page: bytes) -> bytes:
    """Return a page with its script in the place of the mark.

    Raises:
        NotFound: The script was removed.
        Tampered: It is another one than the page was made with.
    """
    mark = _MARK.search(page)
    if mark is None:
        return page
    digest = mark.group(1).decode()
    try:
        library = store.get(layout.report_library(digest))
    except NotFound as error:
        raise NotFound(f"The script {digest[:12]} of this page is gone: look anew.") from error
    if sha256(library) != digest:
        raise Tampered(
            f"The script {digest[:12]} of this page differs from its digest: delete it, look anew."
        )
    return page[: mark.start()] + library + page[mark.end() :]
