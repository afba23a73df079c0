"""What profiling traffic costs against reading it and against a drift report.

Costs are time, memory and bytes.
"""

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from datasketches import kll_floats_sketch
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.traffic import request_files
from benchmarks.traffic.profile_memory import WITH_SAMPLE
from benchmarks.traffic.request_files import NAMES, NUMBERS, STATE
from tasks.profiles import Profile, ProfileSettings, dump, merge, profile_batches, snapped
from tasks.profiles.columns.quantiles import FineHistogram

TABULAR = ProfileSettings(reservoir=0, payloads=False, names=NAMES, numbers=NUMBERS)
SCAN = "DuckDB reads the columns (sums and string lengths, one thread)"
OURS = "profile of the 8 tabular columns"
SAMPLED = "the same with ids: distinct count and a sample of 1,024"
COLUMNS = 20
_TEXTS = (
    "The quick brown fox jumps over the lazy dog. ",
    "สวัสดีครับ วันนี้อากาศดี ",
    "你好，世界。今天天气很好。",
)


@dataclass(frozen=True, slots=True)
class ProfilingRow:
    """Figures of one way to look at so many rows."""

    name: str = column("what")
    rows: int = column("rows", ",d")
    seconds: float | None = column("CPU s", ".3f")
    rate: float | None = column("M rows/s a core", ".2f")
    megabytes: float | None = column("peak MB", ".0f")
    size: int | None = column("profile bytes", ",d")


def measure(quick: bool) -> ResultTable:
    """Measure every figure, on files that are deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        read, ratio = _reading(
            Path(folder), 200_000 if quick else 1_000_000, rounds=3 if quick else 9
        )
    report, gain = _against_report(20_000 if quick else 1_000_000)
    memory, peak, growth = _memory(1_000_000, 2_000_000 if quick else 50_000_000)
    sizes = _sizes(100_000 if quick else 1_000_000)
    rate = next(row.rate for row in read if row.name == OURS)
    goals = (
        Goal("million records a second and core, tabular features:", 1.0, rate),
        Goal("CPU time of that, times DuckDB reading the same columns:", 1.5, ratio, "at most"),
        Goal(f"times faster than Evidently's drift preset on {COLUMNS} columns:", 20, gain),
        Goal("peak memory in MB:", 400, peak, "at most"),
        Goal("peak memory, times that of the smaller set:", 1.1, growth, "at most"),
        Goal(
            "bytes of the largest profile, times that of 10^6 rows:",
            1.5,
            sizes[-1].size / sizes[1].size,
            "at most",
        ),
    )
    notes = (
        "CPU s is the process's own time in one thread, the best of several rounds, the file in "
        "the page cache.",
        "Evidently and ours both compare two windows that are in memory; its HTML is not written.",
    )
    rows = (
        *read,
        *_texts(3_000 if quick else 50_000),
        *report,
        *_quantiles(1_000_000),
        *memory,
        *sizes,
    )
    return ResultTable("profiles", "Profiling traffic", rows, goals, notes)


def _reading(folder: Path, rows: int, rounds: int) -> tuple[list[ProfilingRow], float]:
    path = request_files.write(folder / "requests.parquet", rows, seed=1)
    base = duckdb.connect(config={"threads": 1})
    sums = ", ".join(
        [
            "sum(epoch_us(time))",
            *(f"sum({name})" for name in NUMBERS),
            *(f"sum(strlen({name}))" for name in NAMES),
        ]
    )
    arrow = f"select {', '.join(STATE)} from '{path}'"
    ways: dict[str, Callable[[], object]] = {
        SCAN: lambda: base.sql(f"select {sums} from '{path}'").fetchall(),
        "DuckDB reads them and hands them over as Arrow": lambda: [
            *map(len, base.sql(arrow).to_arrow_reader())
        ],
        "pyarrow reads them": lambda: [*map(len, request_files.batches(path, STATE))],
        OURS: lambda: profile_batches(request_files.batches(path, STATE), TABULAR),
        SAMPLED: lambda: profile_batches(
            request_files.batches(path, (*STATE, "request_id")), WITH_SAMPLE
        ),
    }
    seconds = _best(ways, rounds)
    measured = [
        ProfilingRow(name, rows, spent, rows / spent / 1e6, None, None)
        for name, spent in seconds.items()
    ]
    return measured, seconds[OURS] / seconds[SCAN]


def _best(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each call's least seconds of CPU; the calls take turns."""
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, call in ways.items():
            start = process_time()
            call()
            seconds[name] = min(seconds[name], process_time() - start)
    return seconds


def _texts(rows: int) -> list[ProfilingRow]:
    texts = pa.array([_TEXTS[n % 3] * (1 + n % 5) + str(n) for n in range(rows)])
    batch = pa.RecordBatch.from_pydict({"text": texts})
    ways = {
        "texts: lengths, fractions of letters, scripts, distinct inputs": ProfileSettings(
            reservoir=0, fourier_features=0
        ),
        "the same with embeddings and their 128 random Fourier features": ProfileSettings(
            reservoir=0
        ),
    }
    calls = {
        name: (lambda chosen=chosen: profile_batches([batch], chosen))
        for name, chosen in ways.items()
    }
    return [
        ProfilingRow(name, rows, spent, rows / spent / 1e6, None, None)
        for name, spent in _best(calls, 2).items()
    ]


def _against_report(rows: int) -> tuple[list[ProfilingRow], float]:
    before, after = (_frame(rows, seed) for seed in (1, 2))
    numbers, names = (
        [name for name in before if before[name].dtype == kind]
        for kind in (np.dtype(float), np.dtype(object))
    )
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=names)

    def evidently() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sides = [
                Dataset.from_pandas(frame, data_definition=definition) for frame in (after, before)
            ]
            return Report([DataDriftPreset()]).run(*sides).dict()

    tables = [pa.Table.from_pandas(frame) for frame in (before, after)]
    chosen = ProfileSettings(
        reservoir=0, payloads=False, names=tuple(names), numbers=tuple(numbers)
    )

    def ours() -> object:
        before_profile, after_profile = (
            profile_batches(table.to_batches(request_files.GROUP), chosen) for table in tables
        )
        quantiles = {name: before_profile.numbers[name] for name in numbers}
        return _compared(before_profile, after_profile, quantiles)

    seconds = {
        name: _wall(call)
        for name, call in (("Evidently's drift preset", evidently), ("two profiles", ours))
    }
    measured = [
        ProfilingRow(f"{name}, {COLUMNS} columns", rows, spent, None, None, None)
        for name, spent in seconds.items()
    ]
    return measured, seconds["Evidently's drift preset"] / seconds["two profiles"]


def _compared(first: Profile, second: Profile, quantiles: dict[str, FineHistogram]) -> list[float]:
    """Return the total variation of every column, on edges that the first profile fixes."""
    distances = []
    for name, histogram in quantiles.items():
        edges = list(snapped([histogram.quantile(fraction) for fraction in np.arange(1, 10) / 10]))
        fractions = [side.histogram(name, edges) / side.rows for side in (first, second)]
        distances.append(float(np.abs(fractions[0] - fractions[1]).sum() / 2))
    for name in first.names:
        fractions = [side.buckets(name) / side.rows for side in (first, second)]
        distances.append(float(np.abs(fractions[0] - fractions[1]).sum() / 2))
    return distances


def _frame(rows: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    numbers = {f"number{n}": random.lognormal(n / 5, 1, rows) for n in range(COLUMNS // 2)}
    kinds = np.array([f"kind-{n}" for n in range(12)], object)
    names = {f"name{n}": kinds[random.integers(0, 12, rows)] for n in range(COLUMNS // 2)}
    return pd.DataFrame({**numbers, **names})


def _wall(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def _quantiles(rows: int) -> list[ProfilingRow]:
    values = np.random.default_rng(3).lognormal(3, 1, rows)
    sketch = kll_floats_sketch(200)
    sketch.update(values.astype(np.float32))
    histogram = FineHistogram.of(values)
    true = np.quantile(values, [0.5, 0.99, 0.999])
    ours = [histogram.quantile(fraction) for fraction in (0.5, 0.99, 0.999)]
    theirs = [sketch.get_quantile(fraction) for fraction in (0.5, 0.99, 0.999)]
    calls = {
        _errors("quantiles from the grid", ours, true): lambda: FineHistogram.of(values),
        _errors("a KLL sketch, k = 200", theirs, true): lambda: kll_floats_sketch(200).update(
            values.astype("f4")
        ),
    }
    sizes = (int(np.count_nonzero(histogram.counts)) * 8, len(sketch.serialize()))
    return [
        ProfilingRow(name, rows, spent, rows / spent / 1e6, None, size)
        for (name, spent), size in zip(_best(calls, 3).items(), sizes, strict=True)
    ]


def _errors(name: str, estimates: list[float], true: np.ndarray) -> str:
    errors = ", ".join(
        f"{abs(value / exact - 1):.2%}" for value, exact in zip(estimates, true, strict=True)
    )
    return f"{name}; p50, p99, p99.9 off by {errors}"


def _memory(few: int, many: int) -> tuple[list[ProfilingRow], float, float]:
    rows = []
    for count in (few, many):
        arguments = [sys.executable, "-m", "benchmarks.traffic.profile_memory", str(count)]
        printed = subprocess.run(
            arguments, check=True, capture_output=True, text=True
        ).stdout.split()
        seconds, peak, size = float(printed[-3]), float(printed[-2]), int(printed[-1])
        name = "streamed from files of 10^6 rows, in a process of its own"
        rows.append(ProfilingRow(name, count, seconds, count / seconds / 1e6, peak, size))
    return rows, rows[-1].megabytes or 0.0, (rows[-1].megabytes or 0.0) / (rows[0].megabytes or 1.0)


def _sizes(rows: int) -> list[ProfilingRow]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "requests.parquet")
        columns = (*STATE, "request_id")
        profiles = [
            profile_batches(
                request_files.batches(request_files.write(path, count, seed), columns), WITH_SAMPLE
            )
            for seed, count in enumerate((1_000, rows, rows, rows, rows))
        ]
    large = merge(*profiles[1:])
    while large.rows < 1_000_000_000:  # counts as large as those of 10^9 rows
        large = merge(large, large)
    return [
        ProfilingRow(name, profile.rows, None, None, None, len(dump(profile)))
        for name, profile in (
            ("one profile", profiles[0]),
            ("one profile", profiles[1]),
            ("merged profiles", large),
        )
    ]
