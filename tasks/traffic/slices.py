"""How much of a Parquet file is decoded at once: a row group of any size is read in slices."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow.parquet as pq

BUFFER = 1 << 20
"""Bytes fetched ahead of each column: without a limit, a row group is in memory whole."""
SLICE_BYTES = 16_000_000
"""Decoded bytes that a slice aims at: a row group of a gigabyte is cut into pieces of this size."""


def rows_of_slice(group: pq.RowGroupMetaData, names: Collection[str], *, most: int) -> int:
    """Return how many rows decode to about SLICE_BYTES in the columns of these names.

    It is from 1 to `most`.
    """
    columns = [group.column(place) for place in range(group.num_columns)]
    size = sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.partition(".")[0] in names
    )
    rows: int = SLICE_BYTES * group.num_rows // max(size, 1)
    return max(1, min(most, rows))
