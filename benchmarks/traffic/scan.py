"""One pass over stored traffic: pyarrow's dataset, DuckDB, and Requant's scan on the same parts.

Each runs in a process of its own: `python -m benchmarks.traffic.scan READER FOLDER`.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness.table import Goal, ResultTable, column
from infra.stores.local import LocalStore
from tasks.traffic.storage.scan import parts_between, scan
from tasks.traffic.storage.schema import SCHEMA

OURS, DATASET, DUCKDB = "tasks.traffic.storage.scan", "pyarrow.dataset", "DuckDB read_parquet"
START = datetime(2026, 3, 1, tzinfo=UTC)
SPAN = (START + timedelta(hours=6), START + timedelta(hours=18))
FACTS = ("time", "domain", "language")
TEXTS = ("domain", "text")
THREADS = 1
"""Threads of every reader: a scan leaves cores to what it feeds."""


@dataclass(frozen=True, slots=True)
class ScanRow:
    """Figures of one reader on one layout."""

    layout: str = column("layout")
    reader: str = column("reader")
    columns: str = column("columns")
    requests: int | None = column("requests in 12 of 24 hours", ",d")
    seconds: float | None = column("s", ".2f")
    rate: float | None = column("M requests/s", ".2f")
    megabytes: float | None = column("MB added to the peak", ".0f")


def measure(quick: bool) -> ResultTable:
    """Measure a day in parts of 10,000 rows, and the same in one row group an hour."""
    rows, rounds = (240_000, 1) if quick else (4_800_000, 3)
    rows_read: list[ScanRow] = []
    with tempfile.TemporaryDirectory(prefix="requant-scan-") as folder:
        for layout, group in (
            ("parts as written", min(10_000, rows // 96)),
            ("one row group an hour", rows // 24),
        ):
            place = Path(folder, str(group))
            _write(place, rows, group)
            for columns in (FACTS, TEXTS):
                rows_read += [_row(layout, reader, columns, place, rounds) for reader in READERS]
    ours, peers = _of(rows_read, OURS), [*_of(rows_read, DATASET), *_of(rows_read, DUCKDB)]
    goals = (
        Goal(
            "rows that each reader counts, different answers",
            1,
            float(len({row.requests for row in rows_read})),
            "at most",
        ),
        Goal(
            "peak memory of ours on large row groups, times the leanest peer's",
            1.2,
            _ratio(ours, peers, layout="one row group an hour", figure="megabytes"),
            "at most",
        ),
        Goal(
            "time of ours, times the fastest peer's, texts",
            1.5,
            _ratio(ours, peers, columns="domain, text"),
            "at most",
        ),
    )
    notes = (
        f"{THREADS} thread each; every reader hands Arrow batches to the same count by domain.",
        "DuckDB reads S3 by its httpfs extension, which is fetched from its vendor's server at run "
        "time.",
    )
    return ResultTable("scan", "One pass over stored traffic", rows_read, goals, notes)


def _of(rows: list[ScanRow], reader: str) -> list[ScanRow]:
    return [row for row in rows if row.reader == reader]


def _ratio(
    ours: list[ScanRow], peers: list[ScanRow], figure: str = "seconds", **where: str
) -> float:
    """Return the worst of our rows against the best peer on the same layout and columns."""
    worst = 0.0
    for row in ours:
        if all(getattr(row, name) == value for name, value in where.items()):
            rivals = [
                peer for peer in peers if (peer.layout, peer.columns) == (row.layout, row.columns)
            ]
            worst = max(worst, getattr(row, figure) / min(getattr(peer, figure) for peer in rivals))
    return worst


def _write(folder: Path, rows: int, group: int) -> None:
    """Write parts of `group` rows with texts of 60 to 600 letters.

    They lie as `write_traffic` lays them out; digests are not real.
    """
    rng = np.random.default_rng(0)
    words = np.array(
        ["open", "file", "model", "scale", "über", "保存", "range", "window", "error", "cache"]
    )
    domains, languages = np.array(["docs", "code", "interface"]), np.array(["en", "de", "ja"])
    for hour in range(24):
        place = folder / f"traffic/m/date=2026-03-01/hour={hour:02d}"
        place.mkdir(parents=True)
        for number in range(rows // 24 // group):
            times = (START + timedelta(hours=hour)).timestamp() + np.sort(rng.random(group)) * 3600
            columns_by_name = {
                "request_id": pa.array([f"{hour}-{number}-{place}" for place in range(group)]),
                "time": pa.array((times * 1e6).astype("datetime64[us]")).cast(
                    SCHEMA.field("time").type
                ),
                "tenant": pa.array(["acme"] * group),
                "domain": pa.array(domains[rng.integers(3, size=group)]),
                "language": pa.array(languages[rng.integers(3, size=group)]),
                "text": pa.array(
                    [
                        " ".join(chosen)
                        for chosen in words[rng.integers(10, size=(group, 12 + number % 60))]
                    ]
                ),
            }
            columns = [
                columns_by_name.get(field.name, pa.nulls(group, field.type)) for field in SCHEMA
            ]
            table = pa.Table.from_arrays(columns, schema=SCHEMA)
            pq.write_table(
                table,
                place / f"part-{number:08d}.parquet",
                compression="zstd",
                row_group_size=group,
            )


def _row(layout: str, reader: str, columns: tuple[str, ...], folder: Path, rounds: int) -> ScanRow:
    arguments = [
        sys.executable,
        "-m",
        "benchmarks.traffic.scan",
        reader,
        str(folder),
        ",".join(columns),
    ]
    runs = [
        [
            float(word)
            for word in subprocess.run(
                arguments, check=True, capture_output=True, text=True
            ).stdout.split()
        ]
        for _ in range(rounds)
    ]
    requests, seconds = int(runs[0][0]), median(run[1] for run in runs)
    peak = max(run[2] for run in runs)
    return ScanRow(
        layout, reader, ", ".join(columns), requests, seconds, requests / seconds / 1e6, peak
    )


# --- the readers


def _ours(folder: str, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    return scan(LocalStore(folder), "m", *SPAN, columns)


def _dataset(folder: str, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    """Read as pyarrow's documentation advises for little memory.

    It uses no threads, no readahead, and streams instead of whole chunks.
    """
    import pyarrow.dataset as ds

    lean = ds.ParquetFragmentScanOptions(use_buffered_stream=True, pre_buffer=False)
    keys = [f"{folder}/{key}" for key in parts_between(LocalStore(folder), "m", *SPAN)]
    dataset = ds.dataset(
        keys, schema=SCHEMA, format=ds.ParquetFileFormat(default_fragment_scan_options=lean)
    )
    within = (ds.field("time") > pa.scalar(SPAN[0])) & (ds.field("time") <= pa.scalar(SPAN[1]))
    return iter(
        dataset.to_batches(
            columns=list(columns),
            filter=within,
            batch_size=8_192,
            batch_readahead=0,
            fragment_readahead=1,
            use_threads=False,
        )
    )


def _duckdb(folder: str, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    import duckdb

    keys = [f"{folder}/{key}" for key in parts_between(LocalStore(folder), "m", *SPAN)]
    database = duckdb.connect(config={"threads": THREADS})
    query = f"SELECT {', '.join(columns)} FROM read_parquet(?) WHERE time > ? AND time <= ?"
    reader = database.execute(query, [keys, *SPAN]).to_arrow_reader(8_192)
    yield from reader


READERS: Mapping[str, Callable[[str, tuple[str, ...]], Iterator[pa.RecordBatch]]] = {
    OURS: _ours,
    DATASET: _dataset,
    DUCKDB: _duckdb,
}


def _most_memory() -> float:
    """Return the megabytes that the process had at most so far."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def main(reader: str, folder: str, columns: str) -> None:
    """Print rows, seconds and the megabytes that the pass added to the process's peak."""
    pa.set_cpu_count(THREADS)
    names = tuple(columns.split(","))
    for library in ("duckdb", "pyarrow.dataset"):  # both are loaded before memory is compared
        import_module(library)

    Path("/proc/self/clear_refs").write_text("5")
    before, started = _most_memory(), time.perf_counter()
    counts: dict[str, int] = {}
    letters = 0
    for batch in READERS[reader](folder, names):
        for name, count in _counts(batch):
            counts[name] = counts.get(name, 0) + count
        if "text" in names:
            letters += batch.column(names.index("text")).nbytes
    print(sum(counts.values()), time.perf_counter() - started, _most_memory() - before, letters)


def _counts(batch: pa.RecordBatch) -> list[tuple[str, int]]:
    counts = batch.column("domain").value_counts()
    return list(
        zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
