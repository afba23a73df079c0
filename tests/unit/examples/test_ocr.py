"""What ships with PP-OCR's networks: pictures that can be drawn again, and how they drift."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from examples.ocr import render
from tasks.models.corpus import read_corpus
from tasks.traffic.simulation import load_scenario, simulate

OCR = Path(__file__).resolve().parents[3] / "examples" / "ocr"
END = datetime(2026, 1, 8, tzinfo=UTC)
COMES = {
    "darker-camera": "dark",
    "noisier-camera": "noisy",
    "another-font": "times",
    "another-script": "script",
}


@pytest.mark.parametrize(
    "scenario", sorted((OCR / "scenarios").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_scenario_begins_at_home_and_ends_elsewhere(scenario: Path) -> None:
    corpus = read_corpus((OCR / "traffic.parquet").read_bytes(), where="the lines")
    shifted = simulate(corpus, load_scenario(scenario), 1, days=7, rate=4, until=END)
    days: dict[int, set[str]] = {}
    for request in shifted:
        days.setdefault(request.time.day, set()).add(request.domain)
    assert days[1] <= {"scan", "phone"}
    assert COMES[scenario.stem] in days[7]


def test_a_drawing_is_the_same_each_time() -> None:
    first, second = (render.requests(tuple(render.SIGHTS), 9, seed=8) for _ in range(2))
    assert [item.payload["image"].tobytes() for item in first] == [
        item.payload["image"].tobytes() for item in second
    ]
    assert {"none", "zh"} < {item.language for item in first}


def test_the_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in OCR.rglob("*.parquet")) < 4_500_000
