"""Timings of kernels kept from one build to the next (ADR 32).

Builds are faster with them, and choose the same kernels. A cache holds for one version of TensorRT
on one kind of device under one driver, and those are its key.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra.canonical import sha256
from infra.engines.nvidia.host import Host
from infra.errors import NotFound
from infra.stores import layout
from infra.stores.port import ObjectStore

_DIGEST = 64


def cache_key(host: Host) -> str:
    """Return where a host's cache lies in the object store."""
    parts = (
        f"{host.module}-{host.version}",
        f"{host.capability}-{host.device}",
        f"driver-{host.driver}",
    )
    return layout.timing_cache("/".join(re.sub(r"[^A-Za-z0-9.-]+", "_", part) for part in parts))


@dataclass(frozen=True, slots=True)
class WarmCache:
    """A cache that a builder's config holds while it builds."""

    store: ObjectStore
    key: str
    before: bytes  # as it was taken from the store; empty where it was not
    diagnostics: tuple[str, ...]  # why it was not

    def keep(self, config: Any) -> None:
        """Store the config's cache if the build changed it."""
        cache = config.get_timing_cache()
        after = bytes(cache.serialize()) if cache is not None else b""
        if after and after != self.before:
            self.store.put(self.key, sha256(after).encode() + after)


def attach(config: Any, store: ObjectStore, key: str, complaints: Sequence[str]) -> WarmCache:
    """Give a builder's config the stored cache, or an empty one.

    `complaints` are what the module logs while it reads the cache. It answers what it cannot read
    with an empty one.
    """
    stored, diagnostics = _read(store, key)
    heard = len(complaints)
    cache = config.create_timing_cache(stored)
    accepted = cache is not None and config.set_timing_cache(cache, False)
    if not accepted:
        config.set_timing_cache(config.create_timing_cache(b""), False)
    if stored and (not accepted or len(complaints) > heard):
        why = "; ".join(complaints[heard:])[:200] or "it is of another device or version"
        return WarmCache(store, key, b"", (f"the timing cache {key} was not taken: {why}",))
    return WarmCache(store, key, stored, diagnostics)


def _read(store: ObjectStore, key: str) -> tuple[bytes, tuple[str, ...]]:
    """Read the bytes under their digest: damaged ones must not reach native code."""
    try:
        data = store.get(key)
    except NotFound:
        return b"", ()
    digest, cache = data[:_DIGEST], data[_DIGEST:]
    if sha256(cache).encode() != digest:
        return b"", (f"the timing cache {key} is damaged and was ignored",)
    return cache, ()
