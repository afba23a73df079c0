"""The requests of a stored sample: a traffic window's, or a calibration set's."""

from __future__ import annotations

from infra.run_scope import once
from infra.settings import settings
from tasks.records import Request
from tasks.traffic.storage.codec import from_parquet


def read_requests(key: str) -> tuple[Request, ...]:
    """Return the requests stored under a key, parsed once in a run.

    Raises `NotFound`, and `BadInput` on a damaged file.
    """
    store = settings().store()
    return once("sample", store.url, key, open_it=lambda: from_parquet(store.get(key), where=key))
