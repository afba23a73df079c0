"""The peers' detectors: Evidently, a kernel test and Frouros.

The kernel test runs through random Fourier features, Frouros in an environment of its own.
"""

from __future__ import annotations

import subprocess
import sys
import venv
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
from numpy.typing import NDArray

from benchmarks.drift.windows import Bench, MeasuredWindow
from tasks.drift.detectors.features import features
from tasks.records import Request

LEVEL = 0.001
"""False alarms a window that peers with a level are set to.

It is the loop's default budget, one in 1,000 windows.
"""
FEATURES, PERMUTATIONS, SHARE = 128, 999, 0.5
BUILD = Path(__file__).resolve().parents[2] / "build"
FROUROS = ("frouros==0.9.0", "numpy<2.2", "scipy<1.15")
"""What its own environment installs: it pins versions that the rest cannot live with."""


def evidently(bench: Bench, windows: Sequence[MeasuredWindow]) -> list[bool]:
    """Run DataDriftPreset by its defaults: a window is called when half of the columns drifted."""
    before = _frame(bench.reference)
    numeric = [name for name in before if before[name].dtype == float]
    rest = [name for name in before if name not in numeric]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=rest)
    drifted = []
    for window in windows:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sides = [
                Dataset.from_pandas(frame, data_definition=definition)
                for frame in (_frame(window.requests), before)
            ]
            drifted.append(_share(Report([DataDriftPreset()]).run(*sides).dict()) >= SHARE)
    return drifted


def _frame(requests: Sequence[Request]) -> pd.DataFrame:
    columns = features(requests)
    return pd.DataFrame({**columns.numeric, **columns.categories})


def _share(document: Any) -> float:
    for metric in document["metrics"]:
        value = metric["value"]
        if str(metric["metric_name"]).startswith("DriftedColumnsCount") and isinstance(value, dict):
            return float(value["share"])
    raise LookupError("Evidently's snapshot counts no drifted columns")


def kernel(bench: Bench, windows: Sequence[MeasuredWindow]) -> list[bool]:
    """Test the maximum mean discrepancy of pixels or embeddings.

    It is compared with permutations of reference and window together.
    """
    home = bench.windows(bench.reference, len(bench.reference))[0].vectors
    rng = np.random.default_rng(0)
    squares = _squares(home)
    width = float(np.sqrt(np.median(squares[squares > 1e-9])))
    frequencies, offsets = (
        rng.standard_normal((home.shape[1], FEATURES)) / width,
        rng.uniform(0, 2 * np.pi, FEATURES),
    )

    def mapped(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sqrt(2 / FEATURES) * np.cos(rows @ frequencies + offsets))

    before, alarms = mapped(home), []
    size = len(home) + len(windows[0].requests)
    signs = np.stack([_split(rng.permutation(size), len(home)) for _ in range(PERMUTATIONS)])
    own = _split(np.arange(size), len(home))
    for window in windows:
        both = np.concatenate([before, mapped(window.vectors)])
        apart = ((signs @ both) ** 2).sum(axis=1)
        rank = 1 + int((apart >= ((own @ both) ** 2).sum()).sum())
        alarms.append(rank / (PERMUTATIONS + 1) <= LEVEL)
    return alarms


def _squares(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = (rows**2).sum(axis=1)
    return np.asarray(np.maximum(sums[:, None] + sums[None, :] - 2 * rows @ rows.T, 0))


def _split(order: NDArray[np.int64], first: int) -> NDArray[np.float64]:
    """Return weights whose product with the rows is the difference of two means."""
    weights = np.full(len(order), -1.0 / (len(order) - first))
    weights[order[:first]] = 1.0 / first
    return weights


def frouros(bench: Bench, windows: Sequence[MeasuredWindow]) -> list[bool]:
    """Run Kolmogorov-Smirnov on each numeric feature, the level shared among them.

    Raises:
        RuntimeError: With the reason, when its environment cannot be made or its process fails.
    """
    before = _columns(features(bench.reference).numeric)
    after = np.stack([_columns(features(window.requests).numeric) for window in windows])
    with TemporaryDirectory() as folder:
        inputs, answer = Path(folder) / "given.npz", Path(folder) / "answer.npy"
        np.savez(inputs, reference=before, windows=after)
        worker = Path(__file__).with_name("frouros_worker.py")
        done = subprocess.run(
            [environment(), str(worker), str(inputs), str(answer)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"Frouros failed: {done.stderr.strip().splitlines()[-1:]}")
        values = np.load(answer, allow_pickle=False)
    return [bool(drifted) for drifted in (values <= LEVEL / before.shape[1]).any(axis=1)]


@cache
def environment() -> str:
    """Return the interpreter of Frouros's own environment, made once under build/."""
    folder = BUILD / "frouros"
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not (folder / ".ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *FROUROS],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"pip could not install Frouros: {done.stderr.strip()[-300:]}")
        (folder / ".ready").touch()
    return str(python)


def _columns(numeric: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.stack(list(numeric.values()), axis=1)
