"""Random traffic as Arrow, for the laws."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from tasks.payloads import encode
from tasks.records import Request
from tasks.traffic.storage.schema import SCHEMA

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXTS = st.text(max_size=20) | st.sampled_from(["Hello, world 12", "สวัสดีครับ", "你好，世界", ""])
TENSORS = st.lists(st.floats(width=32), min_size=1, max_size=6).map(
    lambda xs: np.array(xs, np.float32)
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any request that can be stored; ids repeat."""
    return Request(
        request_id=draw(st.text(max_size=3) | st.integers(0, 999).map("req-{:032}".format)),
        time=NOON + timedelta(microseconds=draw(st.integers(0, 2 * 10**11))),
        tenant=draw(st.sampled_from(["acme", "beta", "คน"]) | st.text(max_size=2)),
        domain=draw(st.sampled_from(["docs", "code"])),
        language=draw(st.sampled_from(["en", "th"])),
        payload=draw(TEXTS | TENSORS),
        latency_ms=draw(st.none() | st.floats()),
        model_version=draw(st.none() | st.sampled_from(["1", "2"])),
        decision=draw(st.none() | st.sampled_from(["allowed", "blocked"])),
    )


def batch(rows: Sequence[Request]) -> pa.RecordBatch:
    """Return a batch as it comes from Parquet."""
    plain = [name for name in SCHEMA.names if hasattr(Request, name)]
    columns = [
        {**{name: getattr(row, name) for name in plain}, **encode(row.payload)} for row in rows
    ]
    return pa.RecordBatch.from_pylist(columns, schema=SCHEMA)


def request(name: str, **more: object) -> Request:
    """Make one English request at noon."""
    facts: dict[str, object] = {
        "tenant": "acme",
        "domain": "docs",
        "language": "en",
        "payload": f"text {name}",
    }
    return Request(request_id=name, **{"time": NOON, **facts, **more})  # type: ignore[arg-type]
