"""Peak memory of profiling so many rows, in a process of its own.

Run it as `python -m benchmarks.traffic.profile_memory ROWS`.
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import process_time

from benchmarks.traffic import request_files
from benchmarks.traffic.request_files import NAMES, NUMBERS, STATE
from tasks.profiles import ProfileSettings, Scan, dump

WITH_SAMPLE = ProfileSettings(payloads=False, names=NAMES, numbers=NUMBERS)
FILE = 1_000_000
"""Rows of one file, which is deleted before the next one is written."""


def main(rows: int) -> None:
    """Print the seconds of CPU that profiling took, the peak in megabytes, and the bytes."""
    scan, seconds = Scan(WITH_SAMPLE), 0.0
    # In its own process: what writing needs is not what profiling needs.
    writer = ProcessPoolExecutor(1, get_context("spawn"))
    with writer, tempfile.TemporaryDirectory() as folder:
        for seed, start in enumerate(range(0, rows, FILE)):
            path = Path(folder, "requests.parquet")
            writer.submit(request_files.write, path, min(FILE, rows - start), seed).result()
            before = process_time()
            for batch in request_files.batches(path, (*STATE, "request_id")):
                scan.add(batch)
            seconds += process_time() - before
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(f"{seconds:.3f} {int(fields['VmHWM'].split()[0]) / 1024:.1f} {len(dump(scan.profile()))}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
