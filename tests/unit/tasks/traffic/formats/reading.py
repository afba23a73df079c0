"""Files of traffic in a test: written as lines of JSON, read into requests and reasons."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.records import Request
from tasks.specs.spec import Task
from tasks.traffic.formats import TrafficFormat
from tasks.traffic.imports import Accepted, Duplicate, stream
from tasks.traffic.rejects import Reject

ELEVEN = datetime(2026, 3, 1, 11, tzinfo=UTC)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def write_lines(path: Path, documents: Iterable[object]) -> Path:
    path.write_text("\n".join(json.dumps(document) for document in documents))
    return path


def read(
    path: Path, format: TrafficFormat | None, task: Task = Task.CAUSAL_LM, **more: Any
) -> tuple[list[Request], list[str], int]:
    """Read requests, the reasons of rejects, and the number of duplicates."""
    records = list(stream(path, task=task, format=format, now=more.pop("now", NOON), **more))
    requests = [record.request for record in records if isinstance(record, Accepted)]
    reasons = [record.reason for record in records if isinstance(record, Reject)]
    return requests, reasons, sum(isinstance(record, Duplicate) for record in records)
