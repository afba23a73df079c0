"""One JSON text for one value: what ledgers and manifests are hashed and signed over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from infra.errors import BadInput
from infra.identifiers import Digest

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"


def canonical(value: Json) -> bytes:
    """Return UTF-8 JSON with sorted keys and no spaces.

    Raises:
        BadInput: JSON cannot say the value (NaN, bytes, objects).
    """
    try:
        return _dump(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"A value cannot be written as JSON ({error}): "
            "use text, finite numbers, lists and objects."
        ) from error


def _dump(value: Json) -> str:
    # Mappings that are not dicts (MappingProxyType) are welcome; keys other than text are not:
    # their order would lie.
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


_SCALARS = frozenset({str, int, float, bool, type(None)})


def _plain(value: Json) -> Json:
    if type(value) in _SCALARS:  # most values: asking an abstract class costs ten times as much
        return value
    if isinstance(value, dict | Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError("an object has a key that is not text")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def sha256(data: bytes) -> Digest:
    """Return the SHA-256 of the bytes, as 64 hexadecimal digits."""
    return Digest(hashlib.sha256(data).hexdigest())
