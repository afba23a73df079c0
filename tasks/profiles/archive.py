"""How a profile is stored: one line with its version and checksum, then compressed JSON and arrays.

Nothing in it is code: no pickles. The same profile gives the same bytes.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput, Tampered
from tasks.profiles.columns.categories import BUCKETS, Categories
from tasks.profiles.columns.distinct import REGISTERS, Distinct
from tasks.profiles.columns.fourier_features import FourierFeatures
from tasks.profiles.columns.quantiles import BINS, FineHistogram
from tasks.profiles.profile import Kept, Profile, empty_reservoir
from tasks.profiles.reservoir import Reservoir, ReservoirItem
from tasks.profiles.settings import VERSION, ProfileSettings

_NAME = b"requant-profile"


def dump(profile: Profile) -> bytes:
    """Return the stored form; equal profiles give equal bytes."""
    document = {
        "settings": profile.settings.document(),
        "rows": profile.rows,
        "missing": dict(profile.missing),
        "numbers": {name: _sparse(histogram.counts) for name, histogram in profile.numbers.items()},
        "names": {name: _names(counted) for name, counted in profile.names.items()},
        "distinct": {
            name: _packed(distinct.registers) for name, distinct in profile.distinct.items()
        },
        "waves": {
            name: [_packed(features.sums), features.rows, features.zeros, features.nonfinite]
            for name, features in profile.fourier_features.items()
        },
        "reservoir": _entries(profile.reservoir),
        "sites": {},  # part of the format, and always empty
    }
    body = zlib.compress(
        json.dumps(document, sort_keys=True, ensure_ascii=False, allow_nan=False).encode(), 6
    )
    return b"%s %d %s\n%s" % (_NAME, VERSION, sha256(body).hexdigest().encode(), body)


def parse(data: bytes, *, where: str) -> Profile:
    """Read what `dump` wrote.

    Raises:
        BadInput: Another version or form.
        Tampered: A wrong checksum.
    """
    head, _, body = data.partition(b"\n")
    words = head.split(b" ")
    if len(words) != 3 or words[0] != _NAME:
        raise BadInput(
            f"{where} is not a profile: delete it, and the next run profiles the part again"
        )
    if words[1] != str(VERSION).encode():
        version = words[1].decode(errors="replace")
        raise BadInput(
            f"{where} has profile version {version}: this release reads {VERSION}; profile the "
            "part "
            "again"
        )
    if words[2] != sha256(body).hexdigest().encode():
        raise Tampered(
            f"{where} does not match its checksum: delete it, and the next run profiles the part "
            "again"
        )
    try:
        return _profile(json.loads(zlib.decompress(body)))
    except (KeyError, TypeError, ValueError, zlib.error, AttributeError) as error:
        raise BadInput(
            f"{where} is not a profile ({error!r}): delete it and profile the part again"
        ) from error


def _profile(document: Mapping[str, Any]) -> Profile:
    settings = ProfileSettings.of(document["settings"])
    return Profile(
        settings=settings,
        rows=int(document["rows"]),
        missing=document["missing"],
        numbers={
            name: FineHistogram(_dense(item, BINS)) for name, item in document["numbers"].items()
        },
        names={name: _categories(item) for name, item in document["names"].items()},
        distinct={
            name: Distinct(_unpacked(item, np.uint8, REGISTERS))
            for name, item in document["distinct"].items()
        },
        fourier_features={
            name: FourierFeatures(_unpacked(sums, np.int64, settings.fourier_features), *counts)
            for name, (sums, *counts) in document["waves"].items()
        },
        reservoir=_reservoir(document["reservoir"], settings),
    )


def _sparse(counts: NDArray[np.int64]) -> list[list[int]]:
    used = np.flatnonzero(counts)
    return [used.tolist(), counts[used].tolist()]


def _dense(item: list[list[int]], size: int) -> NDArray[np.int64]:
    used, filled = item
    counts = np.zeros(size, np.int64)
    if (
        len(used) != len(filled)
        or (used and not 0 <= min(used) <= max(used) < size)
        or min(filled, default=0) < 0
    ):
        raise ValueError(f"counts of {len(used)} bins among {size}")
    counts[used] = filled
    return counts


def _packed(array: NDArray[Any]) -> str:
    return base64.b64encode(
        np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    ).decode()


def _unpacked(text: str, dtype: type[Any], size: int) -> NDArray[Any]:
    array = np.frombuffer(base64.b64decode(text), np.dtype(dtype).newbyteorder("<")).astype(dtype)
    if len(array) != size:
        raise ValueError(f"{len(array)} values, not {size}")
    return array


def _names(counted: Categories) -> Mapping[str, Any]:
    state = counted.state()
    key, value = (
        ("sketch", base64.b64encode(state).decode())
        if isinstance(state, bytes)
        else ("exact", dict(state))
    )
    return {"buckets": _sparse(counted.buckets), key: value}


def _categories(item: Mapping[str, Any]) -> Categories:
    state = base64.b64decode(item["sketch"]) if "sketch" in item else item["exact"]
    return Categories.of_state(_dense(item["buckets"], BUCKETS), state)


def _entries(reservoir: Reservoir[Kept] | None) -> list[list[object]]:
    return [[e.key, e.group, e.priority, *e.item] for e in reservoir.entries()] if reservoir else []


def _reservoir(rows: list[list[Any]], settings: ProfileSettings) -> Reservoir[Kept] | None:
    reservoir = empty_reservoir(settings)
    if reservoir is None:
        return None
    for key, group, priority, *item in rows:
        reservoir.hold(ReservoirItem(key, group, priority, Kept(*item)))
    return reservoir
