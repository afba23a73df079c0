"""Synthetic request records as Parquet, drawn by seed.

They have tabular state features and an id, but no inputs.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ("tenant", "domain", "language", "model_version", "decision")
NUMBERS = ("latency_ms", "tokens")
STATE = ("time", *NAMES, *NUMBERS)
"""The columns of the tabular features."""
GROUP = 1 << 17
"""Rows of a row group."""
_KINDS = (200, 3, 12, 2, 2)  # different names a column
_NOON = 1_772_366_400_000_000  # microseconds
_DAY = 86_400_000_000


def write(path: Path, rows: int, seed: int) -> Path:
    """Write a file of so many rows, one row group in memory at a time."""
    random = np.random.default_rng(seed)
    first = _group(random, min(rows, GROUP))
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_batch(first)
        for start in range(GROUP, rows, GROUP):
            writer.write_batch(_group(random, min(GROUP, rows - start)))
    return path


def batches(path: Path, columns: tuple[str, ...], rows: int = GROUP) -> Iterator[pa.RecordBatch]:
    """Yield the file's record batches, names as dictionaries, decoded in one thread."""
    file = pq.ParquetFile(path, read_dictionary=list(NAMES))
    yield from file.iter_batches(rows, columns=list(columns), use_threads=False)


def _group(random: np.random.Generator, rows: int) -> pa.RecordBatch:
    columns: dict[str, pa.Array] = {
        "request_id": _ids(random, rows),
        "time": pa.array(
            _NOON + np.sort(random.integers(0, _DAY, rows)), pa.timestamp("us", "UTC")
        ),
        "latency_ms": pa.array(random.lognormal(3, 1, rows)),
        "tokens": pa.array(random.integers(1, 2000, rows).astype(np.int32)),
    }
    for name, kinds in zip(NAMES, _KINDS, strict=True):
        chosen = pa.array(np.minimum(random.zipf(1.5, rows) - 1, kinds - 1).astype(np.int32))
        columns[name] = pa.DictionaryArray.from_arrays(
            chosen, [f"{name}-{n}" for n in range(kinds)]
        ).cast(pa.string())
    return pa.RecordBatch.from_pydict(columns)


def _ids(random: np.random.Generator, rows: int) -> pa.Array:
    """Draw random ids of 32 hexadecimal digits, as UUIDs have."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[
        random.integers(0, 16, (rows, 32), np.uint8)
    ]
    offsets = np.arange(0, 32 * rows + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes()))
