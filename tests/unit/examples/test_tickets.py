"""The tickets example's data: disjoint splits, every queue, and bytes that its script makes."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from examples.tickets.tickets import QUEUES, first

TICKETS = Path(__file__).resolve().parents[3] / "examples" / "tickets"
FILES = ("traffic", "calibration", "golden")


def test_no_split_holds_a_ticket_of_another() -> None:
    prompts = [item.prompt for split in (*FILES, "train") for item in first(split, 1, 150)]
    assert len(set(prompts)) == len(prompts)


def test_every_queue_and_channel_is_frequent_enough_to_be_judged() -> None:
    rows = pq.read_table(TICKETS / "golden.parquet").to_pylist()
    assert set(Counter(row["label"] for row in rows)) == set(QUEUES)
    assert min(Counter((row["label"], row["domain"]) for row in rows).values()) >= 12


def test_the_script_writes_what_is_shipped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.tickets.build_corpus", "--output", str(tmp_path)]
    subprocess.run(command, check=True, cwd=TICKETS.parents[1])
    for name in FILES:
        made, shipped = (
            pq.read_table(folder / f"{name}.parquet") for folder in (tmp_path, TICKETS)
        )
        assert made.equals(shipped)
