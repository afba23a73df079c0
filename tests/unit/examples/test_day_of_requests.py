"""The requests that the README imports are the shipped traffic, as programs and KServe write."""

from pathlib import Path

from examples.digits.logs import BATCH, EVENTS, LINES, events, lines
from tasks.models.corpus import read_corpus

FOLDER = Path(__file__).parents[3] / "examples" / "digits"


def test_the_shipped_logs_are_what_their_script_writes() -> None:
    rows = list(read_corpus((FOLDER / "traffic.parquet").read_bytes(), where="traffic"))
    assert (FOLDER / "requests.jsonl").read_text() == lines(rows[:LINES])
    for number in range(EVENTS):
        first = LINES + number * BATCH
        for name, text in events(number, rows[first : first + BATCH]).items():
            assert (FOLDER / "kserve-logs" / name).read_text() == text
