"""Profiles of stored traffic: a window is the merge of its parts' profiles.

Each part is read once, ever. Keys are
`profiles/MODEL/date=YYYY-MM-DD/hour=HH/part-<digest>-v<version>-<settings>.profile`, beside the
part `traffic/MODEL/date=.../hour=.../part-<digest>.parquet` that they are about.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import AlreadyExists, BadInput, NotFound, RequantError, Tampered
from infra.run_scope import read_once
from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks.profiles.archive import dump, parse
from tasks.profiles.columns.hashing import hash64
from tasks.profiles.profile import Profile, empty, merge
from tasks.profiles.scan import DTYPE, ID, TENSOR, TEXT, TIME, profile_batches
from tasks.profiles.settings import VERSION, ProfileSettings

BATCH = 1 << 16
"""Rows in memory at a time."""
_REQUIRED = (ID, TIME, "tenant", "domain", "language")


class PartProfile(NamedTuple):
    """One part's profile as bytes: it travels between processes, sketches do not."""

    data: bytes
    read: bool  # whether the part itself was read for it
    diagnostic: str  # why a stored profile was made anew; "" otherwise


class ProfileMapper(Protocol):
    """`map`, or that of a pool or cluster.

    It applies a picklable function to each part, in any order of time.
    """

    def __call__(
        self, work: Callable[[str], PartProfile], parts: Iterable[str], /
    ) -> Iterable[PartProfile]:
        """Return the results; their order does not matter."""
        ...


@dataclass(frozen=True, slots=True)
class WindowProfile:
    """What became of a window's parts."""

    profile: Profile
    parts: int  # different ones
    read: int  # parts read now; the others' profiles were stored before
    diagnostics: tuple[str, ...]


def profile_window(
    store: ObjectStore,
    model: str,
    parts: Iterable[str],
    settings: ProfileSettings = ProfileSettings(),  # noqa: B008  # frozen
    *,
    mapper: ProfileMapper = map,
) -> WindowProfile:
    """Return the profile of these parts of a model's traffic; without any, that of no requests.

    A key given twice counts once.

    Raises:
        BadInput: A key is no part of the model, or a part is no traffic.
        Tampered: A part does not match its name.
        NotFound: A part is gone and was never profiled.
    """
    keys = sorted(set(parts))
    strange = next((key for key in keys if not _of_model(key, model)), None)
    if strange is not None:
        raise BadInput(
            f"{strange} is not a part of the traffic of {model}: list them under "
            f"{layout.TRAFFIC.prefix(model=model)}"
        )
    total, read, diagnostics = empty(settings), 0, []
    for part in mapper(partial(profile_part, store, settings=settings), keys):
        total = merge(total, parse(part.data, where=f"a part's profile of {model}"))
        read += part.read
        diagnostics += [part.diagnostic] if part.diagnostic else []
    return WindowProfile(total, len(keys), read, tuple(sorted(diagnostics)))


def profile_part(
    store: ObjectStore,
    key: str,
    settings: ProfileSettings = ProfileSettings(),  # noqa: B008  # frozen
) -> PartProfile:
    """Return the stored profile of one part, or a new one that is stored.

    Errors are as of `profile_window`.
    """
    name = profile_key(key, settings)
    try:
        stored = store.get(name)
    except NotFound:
        data = _profiled(store, key, settings)
        with contextlib.suppress(
            AlreadyExists
        ):  # somebody else profiled the same part: the bytes are the same
            store.create(name, data)
        return PartProfile(data, True, "")
    try:
        _checked(stored, settings, name)
    except (BadInput, Tampered) as error:
        return _again(store, key, settings, error)
    return PartProfile(stored, False, "")


def profile_key(part: str, settings: ProfileSettings) -> str:
    """Return where a part's profile is stored; raises `BadInput` on a key that names no part."""
    fields = layout.TRAFFIC.fields(part)
    if fields is None:
        raise BadInput(f"{part} is not a part of stored traffic: import the traffic first")
    return layout.part_profile(fields, VERSION, settings.digest)


def _of_model(key: str, model: str) -> bool:
    fields = layout.TRAFFIC.fields(key)
    return fields is not None and fields["model"] == model


def _checked(data: bytes, settings: ProfileSettings, where: str) -> None:
    stored = parse(data, where=where).settings
    if stored != settings:
        raise BadInput(
            f"{where} has settings {stored.digest}, not {settings.digest}: profile the part again"
        )


def _again(
    store: ObjectStore, key: str, settings: ProfileSettings, error: RequantError
) -> PartProfile:
    try:
        data = _profiled(store, key, settings)
    except NotFound as gone:
        raise type(error)(f"{error}; its part {key} is gone, so restore one of the two") from gone
    store.put(profile_key(key, settings), data)
    return PartProfile(data, True, f"{key} was profiled again, because {error}")


def _profiled(store: ObjectStore, key: str, settings: ProfileSettings) -> bytes:
    data = read_once(store, key)
    if f"part-{sha256(data).hexdigest()[:32]}.parquet" != key.rpartition("/")[2]:
        raise Tampered(
            f"{key} in {store.url} does not match the digest in its name: restore it or delete it"
        )
    try:
        return dump(profile_batches(map(_without_repeats, _batches(data, settings)), settings))
    except BadInput as error:
        raise BadInput(f"{key} cannot be profiled: {error}") from error
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0].rstrip(".")
        raise BadInput(
            f"{key} is not a whole Parquet file ({reason}): write or fetch it again"
        ) from error


def _batches(data: bytes, settings: ProfileSettings) -> Iterator[pa.RecordBatch]:
    metadata = pq.read_metadata(pa.BufferReader(data))
    present = set(metadata.schema.to_arrow_schema().names)
    lacking = [name for name in _REQUIRED if name not in present]
    if lacking:
        raise BadInput(f"it has no column {lacking[0]}; import the traffic again")
    names = [name for name in settings.names if name in present]
    file = pq.ParquetFile(pa.BufferReader(data), metadata=metadata, read_dictionary=names)
    columns = [
        name
        for name in (ID, TIME, *settings.names, *settings.numbers, TEXT, TENSOR, DTYPE)
        if name in present
    ]
    yield from file.iter_batches(BATCH, columns=columns, use_threads=False)


def _without_repeats(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Keep the first delivery of each request; parts are far smaller than a batch."""
    _, first = np.unique(hash64(batch.column(ID)), return_index=True)
    return batch if len(first) == batch.num_rows else batch.take(pa.array(np.sort(first)))
