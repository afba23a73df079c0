"""Write the day of requests that the README imports: `python -m examples.digits.logs`.

Most are JSON Lines as an application would write them. The rest is what KServe's inference logger
sends, an event a file.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.models.corpus import read_corpus
from tasks.records import Request, Tensor

HERE = Path(__file__).parent
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
LINES, EVENTS, BATCH = 96, 4, 4
TENANTS = ("post-office", "bank", "acme")
_KIND = "org.kubeflow.serving.inference"


def lines(rows: list[Request]) -> str:
    """Return one request a line, five minutes apart."""
    return "".join(json.dumps(_line(number, row)) + "\n" for number, row in enumerate(rows))


def events(number: int, rows: list[Request]) -> dict[str, str]:
    """Return the two files of one call: its images, and the digits that were answered."""
    instances = [
        {"image": _pixels(row), "domain": row.domain, "language": row.language} for row in rows
    ]
    sides = {
        "request": {"instances": instances},
        "response": {"predictions": [int(row.label or 0) for row in rows]},
    }
    return {
        f"{number:04}-{side}.json": json.dumps(_event(number, side, body)) + "\n"
        for side, body in sides.items()
    }


def _line(number: int, row: Request) -> dict[str, object]:
    return {
        "request_id": f"scan-{number}",
        "time": (START + timedelta(minutes=5 * number)).isoformat(),
        "tenant": TENANTS[number % len(TENANTS)],
        "domain": row.domain,
        "language": row.language,
        "tensor": _pixels(row),
        "label": row.label,
    }


def _event(number: int, side: str, body: dict[str, object]) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": f"call-{number}",
        "type": f"{_KIND}.{side}",
        "source": "http://localhost:9081/",
        "time": (START + timedelta(hours=2 * number)).isoformat(),
        "datacontenttype": "application/json",
        "inferenceservicename": "digits",
        "data": body,
    }


def _pixels(row: Request) -> list[object]:
    """Return nested lists [1, 8, 8]; the scans' pixels are sixteenths, so that they are short."""
    image: Tensor = row.payload  # type: ignore[assignment]  # the digits' rows hold images
    return list(image.tolist())


def main() -> None:
    """Write both beside this script."""
    rows = list(read_corpus((HERE / "traffic.parquet").read_bytes(), where="traffic.parquet"))
    (HERE / "requests.jsonl").write_text(lines(rows[:LINES]))
    (HERE / "kserve-logs").mkdir(exist_ok=True)
    for number in range(EVENTS):
        first = LINES + number * BATCH
        for name, text in events(number, rows[first : first + BATCH]).items():
            (HERE / "kserve-logs" / name).write_text(text)


if __name__ == "__main__":
    main()
