"""The parquet layouts of corpus rows and golden cases, and how content decides a row's split."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

GOLDEN_VERSION = 1

_PAYLOAD: list[pa.Field] = [
    pa.field("text", pa.string()),
    pa.field("tensor", pa.binary()),
    pa.field("shape", pa.list_(pa.int32())),
    pa.field("dtype", pa.string()),
]
_ABOUT: list[pa.Field] = [
    pa.field("domain", pa.string(), nullable=False),
    pa.field("language", pa.string(), nullable=False),
]
CORPUS_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        *_PAYLOAD,
        *_ABOUT,
        pa.field("label", pa.string()),
    ]
)
GOLDEN_SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        *_PAYLOAD,
        *_ABOUT,
        pa.field("kind", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("relevant", pa.list_(pa.string())),
    ],
    metadata={b"requant.golden.version": str(GOLDEN_VERSION).encode()},
)


@dataclass(frozen=True)
class Payload:
    """What a model is sent: a text, or a float32 tensor as little-endian C-order bytes."""

    text: str | None = None
    tensor: bytes | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class CorpusRow:
    """One line of `traffic.parquet` or `calibration.parquet`."""

    id: str
    payload: Payload
    domain: str
    language: str
    label: str | None = None


@dataclass(frozen=True)
class GoldenCase:
    """One line of `golden.parquet`; `relevant` names the passages that a query must find."""

    case_id: str
    payload: Payload
    domain: str
    language: str
    kind: str = "plain"
    label: str | None = None
    relevant: tuple[str, ...] | None = None


def tensor_payload(array: npt.NDArray[np.float32]) -> Payload:
    """Pack an array; `[1, 8, 8]` gives 256 bytes."""
    return Payload(tensor=array.astype("<f4").tobytes(), shape=tuple(array.shape), dtype="float32")


def tensor_of(tensor: bytes, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """Unpack what `tensor_payload` packed."""
    return np.frombuffer(tensor, dtype="<f4").reshape(tuple(shape)).astype(np.float32)


def normalised(text: str) -> str:
    """Fold width, case and white space, so that two spellings of one sentence share a hash."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


def fingerprint(content: str | bytes) -> str:
    """Return SHA-256 of a normalised text, or of bytes as they are."""
    return hashlib.sha256(
        content if isinstance(content, bytes) else normalised(content).encode()
    ).hexdigest()


def share(digest: str) -> float:
    """Return where a digest falls in [0, 1): a split by it is the same on every run."""
    return int(digest[:12], 16) / 16**12


def write(path: Path, rows: Sequence[CorpusRow] | Sequence[GoldenCase]) -> None:
    """Write rows sorted by their first column as zstd parquet; equal rows give equal bytes."""
    schema = GOLDEN_SCHEMA if isinstance(rows[0], GoldenCase) else CORPUS_SCHEMA
    key = schema.names[0]
    table = pa.Table.from_pylist(
        sorted((_flat(row) for row in rows), key=lambda row: str(row[key])), schema=schema
    )
    pq.write_table(table, path, compression="zstd", compression_level=19)


def _flat(row: CorpusRow | GoldenCase) -> dict[str, object]:
    """Spread the payload over its four columns."""
    plain = {
        field.name: getattr(row, field.name) for field in fields(row) if field.name != "payload"
    }
    return {**plain, **asdict(row.payload)}
