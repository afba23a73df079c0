"""The shipped digits model is good at every exposure; its scales go stale when that moves."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import yaml

from examples.digits.network import CONFIG
from examples.digits.staleness import (
    STALE_EXPOSURES,
    accuracy,
    full_precision,
    load,
    observe,
    quantized,
)
from examples.digits.train import EXPOSURES, scans
from examples.rows import CORPUS_SCHEMA, GOLDEN_SCHEMA, tensor_of

FOLDER = Path(__file__).parents[3] / "examples" / "digits"

Row = dict[str, Any]  # a parquet row as pyarrow gives it


def rows(split: str) -> list[Row]:
    """Read one shipped file."""
    found: list[Row] = pq.read_table(FOLDER / f"{split}.parquet").to_pylist()
    return found


def base(row: Row) -> bytes:
    """Undo the exposure: scaled images share a brightest pixel of 1 once divided by it."""
    image: npt.NDArray[np.float32] = tensor_of(row["tensor"], row["shape"])
    levels: bytes = np.round(image / image.max() * 255).astype(np.uint8).tobytes()
    return levels


def test_files_have_the_agreed_columns() -> None:
    assert pq.read_schema(FOLDER / "traffic.parquet").equals(CORPUS_SCHEMA)
    assert pq.read_schema(FOLDER / "calibration.parquet").equals(CORPUS_SCHEMA)
    assert pq.read_schema(FOLDER / "golden.parquet").equals(GOLDEN_SCHEMA)
    assert pq.read_schema(FOLDER / "golden.parquet").metadata[b"requant.golden.version"] == b"1"


def test_no_image_is_shared_between_splits_at_any_exposure() -> None:
    traffic, calibration, golden = (
        {base(row) for row in rows(name)} for name in ("traffic", "calibration", "golden")
    )
    assert not traffic & calibration
    assert not golden & (traffic | calibration)


def test_no_golden_image_was_trained_on() -> None:
    trained = {
        base({"tensor": scan.image.tobytes(), "shape": scan.image.shape})
        for scan in scans()
        if scan.split == "training"
    }
    assert not trained & {base(row) for row in rows("golden")}


def test_every_golden_image_comes_once_at_each_exposure() -> None:
    golden = rows("golden")
    domains = Counter(row["domain"] for row in golden)
    assert set(domains) == {f"exposure-{exposure}" for exposure in EXPOSURES}
    assert set(domains.values()) == {len({base(row) for row in golden})}
    assert min(domains.values()) >= 300


def test_rows_are_float32_images_with_a_digit() -> None:
    for row in rows("traffic") + rows("calibration") + rows("golden"):
        assert row["shape"] == [1, 8, 8]
        assert row["dtype"] == "float32"
        assert row["text"] is None
        assert row["label"] in set("0123456789")
        assert row["language"] == "none"


@pytest.mark.parametrize("exposure", EXPOSURES)
def test_full_precision_is_right_at_every_exposure(exposure: float) -> None:
    golden = load(FOLDER / "golden.parquet", f"exposure-{exposure}")
    assert accuracy(full_precision(), golden.images, golden.digits) >= 0.95


def test_stale_scales_cost_five_points_at_exposure_eight_and_new_ones_win_them_back() -> None:
    network = full_precision()
    golden = load(FOLDER / "golden.parquet", "exposure-8")
    pool = load(FOLDER / "calibration.parquet", "exposure-1").images
    stale = quantized(observe(network, [pool * exposure for exposure in STALE_EXPOSURES]))
    fresh = quantized(observe(network, [pool * 8]))
    reference = accuracy(network, golden.images, golden.digits)
    assert reference - accuracy(stale, golden.images, golden.digits) >= 0.05
    assert reference - accuracy(fresh, golden.images, golden.digits) <= 0.01


def test_full_precision_itself_fails_on_inverted_and_on_rotated_images() -> None:
    golden = load(FOLDER / "golden.parquet", "exposure-1")
    assert accuracy(full_precision(), 1 - golden.images, golden.digits) < 0.7
    assert accuracy(full_precision(), golden.images.rot90(1, (2, 3)), golden.digits) < 0.7


def test_the_spec_and_the_config_agree_with_the_network() -> None:
    assert json.loads((FOLDER / "config.json").read_text()) == CONFIG
    spec = yaml.safe_load((FOLDER / "model.yaml").read_text())
    assert spec["input"]["shape"] == CONFIG["input"]
    for name in (*spec["data"].values(), *spec["golden"].values()):
        assert (FOLDER / name).is_file()
