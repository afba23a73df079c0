"""What a request looks like from outside, as numbers and categories."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.payloads import is_file
from tasks.records import Record, Request

NO_SCRIPT = "none"
_LOOKED_AT = 20_000  # characters of one text: fractions of a longer one change little


@dataclass(frozen=True, slots=True)
class Features:
    """One column per feature, one row per request."""

    numeric: dict[str, NDArray[np.float64]]  # name -> [requests]
    categories: dict[str, tuple[str, ...]]  # name -> [requests]


def features(requests: Sequence[Request]) -> Features:
    """Return columns of texts or of tensors; raises `BadInput` when the two are mixed."""
    categories = {
        "domain": tuple(request.domain for request in requests),
        "language": tuple(request.language for request in requests),
    }
    texts = [request.payload for request in requests if isinstance(request.payload, str)]
    tensors = [
        request.payload
        if isinstance(request.payload, Mapping)
        else {"": np.asarray(request.payload)}
        for request in requests
        if not isinstance(request.payload, str)
    ]
    if texts and tensors:
        raise BadInput(
            f"{len(texts)} requests are texts and {len(tensors)} are tensors: "
            "a model reads one kind"
        )
    if tensors:
        return Features(_of_tensors(tensors), categories)
    described = [_of_text(text) for text in texts]
    columns = ("length", "non-ASCII letters", "digits", "punctuation")
    numeric = {
        name: np.array([row[0][i] for row in described], np.float64)
        for i, name in enumerate(columns)
    }
    return Features(numeric, {**categories, "script": tuple(row[1] for row in described)})


def _of_tensors(records: Sequence[Record]) -> dict[str, NDArray[np.float64]]:
    """Describe tensors by name; the only tensor of a plain payload has the name ""."""
    columns: dict[str, NDArray[np.float64]] = {}
    for name in sorted(set.intersection(*(set(record) for record in records))):
        wide = [np.asarray(record[name]).astype(np.float64) for record in records]
        prefix = f"{name} " if name else ""
        if all(is_file(np.asarray(record[name])) for record in records):
            columns[f"{prefix}size"] = np.array([float(tensor.size) for tensor in wide])
            continue
        columns[f"{prefix}mean"] = np.array([tensor.mean() for tensor in wide])
        columns[f"{prefix}maximum"] = np.array([tensor.max() for tensor in wide])
        columns[f"{prefix}standard deviation"] = np.array([tensor.std() for tensor in wide])
        if name and len({tensor.shape for tensor in wide}) > 1:
            columns[f"{prefix}size"] = np.array([float(tensor.size) for tensor in wide])
    return columns


def _of_text(text: str) -> tuple[tuple[float, float, float, float], str]:
    """Return length, fractions of non-ASCII letters, digits and punctuation, and main script."""
    letters = Counter(text[:_LOOKED_AT])
    size = max(sum(letters.values()), 1)
    kinds: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        kinds[_kind(letter)] += count
        scripts[_script(letter)] += count
    del scripts[NO_SCRIPT]
    main = min(scripts, key=lambda script: (-scripts[script], script), default=NO_SCRIPT)
    return (
        len(text),
        kinds["foreign"] / size,
        kinds["digit"] / size,
        kinds["punctuation"] / size,
    ), main


@cache
def _kind(letter: str) -> str:
    category = unicodedata.category(letter)
    if category.startswith("L"):
        return "ascii" if letter.isascii() else "foreign"
    return {"N": "digit", "P": "punctuation", "S": "punctuation"}.get(category[0], "other")


@cache
def _script(letter: str) -> str:
    """Return the first word of a letter's Unicode name: LATIN, CYRILLIC, CJK, HANGUL, ..."""
    return (
        unicodedata.name(letter, NO_SCRIPT).split(" ")[0].split("-")[0]
        if letter.isalpha()
        else NO_SCRIPT
    )
