"""What quiet maintenance runs leave on the disk: a hundred windows of the digits that are fine.

`python -m benchmarks.orchestration.quiet_runs FOLDER RUNS` lives them in a workspace.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.orchestration.commands import ROOT, run_python
from benchmarks.orchestration.maintain import EXAMPLE, MODEL, serve
from flows.maintenance import maintenance
from flows.orchestration.orchestrated import call
from infra.settings import use_workspace

RUNS, QUICK_RUNS = 100, 5
GOAL_MB = 1.0
TRAFFIC = "store/traffic"
"""What users sent, which is not the run's."""
SCRIPT = "store/report-scripts"
"""What all pages share, which the first of all runs stores."""
BLOCK = 512
"""Bytes of the unit that the file system counts in (POSIX, `st_blocks`)."""
Used = Mapping[str, tuple[int, int]]
"""Folder of the workspace -> bytes on the disk, files."""


@dataclass(frozen=True, slots=True)
class QuietRow:
    """What is left in one folder of the workspace."""

    folder: str = column("folder")
    megabytes: float = column("MB a run", ".4f")
    files: float = column("files a run", ".2f")


def measure(quick: bool) -> ResultTable:
    """Live quiet runs after a first champion, and count what each leaves beside its traffic."""
    runs = QUICK_RUNS if quick else RUNS
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "benchmarks.orchestration.quiet_runs", folder, str(runs)]
        lived = json.loads(run_python(ROOT, Path(folder), command).output.splitlines()[-1])
    rows = grown(lived[0], lived[-1], runs)
    each = [_total(after) - _total(before) for before, after in pairwise(lived)]
    notes = (
        f"the first, which stores the script of all pages, {each[0] / 1e6:.2f} MB; the largest "
        f"after it {max(each[1:]) / 1e6:.2f}; the last ten {mean(each[-10:]) / 1e6:.2f} on average",
    )
    total = sum(row.megabytes for row in rows)
    goal = Goal("MB of disk a quiet run", GOAL_MB, total, "at most")
    title = f"What {runs} quiet maintenance runs of {MODEL} leave on the disk, by folder"
    return ResultTable("quiet-runs", title, rows, [goal], notes)


def grown(before: Used, after: Used, runs: int) -> list[QuietRow]:
    """Return the growth of each folder a run, the largest first; what users sent left out."""
    rows = []
    for folder in sorted(after):
        size, files = after[folder]
        size_before, files_before = before.get(folder, (0, 0))
        if folder != TRAFFIC and (size, files) != (size_before, files_before):
            grew = (size - size_before) / 1e6 / runs, (files - files_before) / runs
            rows.append(QuietRow(folder, *grew))
    return sorted(rows, key=lambda row: -row.megabytes)


def used(workspace: Path) -> dict[str, tuple[int, int]]:
    """Return what lies in each folder, two levels deep: bytes on the disk, and files."""
    sizes: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for path in workspace.rglob("*"):
        if path.is_file():
            parts = path.relative_to(workspace).parts
            folder = "/".join(parts[:2] if len(parts) > 2 else parts[:1])
            sizes[folder] += path.stat().st_blocks * BLOCK
            files[folder] += 1
    return {folder: (sizes[folder], files[folder]) for folder in sizes}


def live(workspace: Path, runs: int) -> Sequence[Used]:
    """Let a first champion be made and windows be decided; return what lies there after each.

    Raises `RuntimeError` when a run is not quiet.
    """
    chosen = use_workspace(workspace)
    run_python(ROOT, workspace, ["-m", "flows.cli", "model", "add", str(EXAMPLE / "model.yaml")])
    states = []
    for day in range(runs + 1):
        serve(chosen.store(), day)
        outcome = call(maintenance, MODEL)
        if day and outcome.status != "kept":
            raise RuntimeError(f"run {day} ended as {outcome.status}: {outcome.reason}")
        states.append(used(workspace))
    return states


def _total(state: Used) -> int:
    return sum(size for folder, (size, _) in state.items() if folder != TRAFFIC)


if __name__ == "__main__":
    print(json.dumps(live(Path(sys.argv[1]).resolve(), int(sys.argv[2]))))
