"""Write the tickets example's traffic, calibration pool and golden set.

`python -m examples.tickets.build_corpus`. The same bytes on every run.
"""

import argparse
from pathlib import Path

from examples.rows import CorpusRow, GoldenCase, Payload, fingerprint, write
from examples.tickets.tickets import Ticket, first

HERE = Path(__file__).parent
ROWS = {"traffic": 800, "calibration": 240}
CASES = 240


def corpus_row(ticket: Ticket) -> CorpusRow:
    """Return a ticket as a user sends it, with its queue as the label."""
    name = fingerprint(ticket.prompt)[:16]
    return CorpusRow(name, Payload(text=ticket.prompt), ticket.channel, "en", ticket.queue)


def golden_case(ticket: Ticket) -> GoldenCase:
    """Return a ticket whose answer is held against its queue."""
    name = f"{ticket.channel}-{fingerprint(ticket.prompt)[:16]}"
    return GoldenCase(
        name, Payload(text=ticket.prompt), ticket.channel, "en", "answer", ticket.queue
    )


def main() -> None:
    """Write the three parquet files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE)
    output: Path = parser.parse_args().output
    for split, count in ROWS.items():
        write(output / f"{split}.parquet", [corpus_row(item) for item in first(split, 1, count)])
    write(output / "golden.parquet", [golden_case(item) for item in first("golden", 2, CASES)])


if __name__ == "__main__":
    main()
