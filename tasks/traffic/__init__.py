"""Live traffic: files that serving stacks write, parts by hour in the store, windows and scans."""

from tasks.traffic.formats import TrafficFormat
from tasks.traffic.imports import Accepted, Duplicate, Import, judge_traces, read_import, stream
from tasks.traffic.intake import Ingested, ingest
from tasks.traffic.masking import redacted
from tasks.traffic.rejects import Reject, write_rejects
from tasks.traffic.storage.codec import from_parquet, to_parquet
from tasks.traffic.storage.parts import write_traffic
from tasks.traffic.storage.schema import SCHEMA, VERSION
from tasks.traffic.storage.windows import StoredRequests, TrafficWindow, read_window

__all__ = [
    "SCHEMA",
    "VERSION",
    "Accepted",
    "Duplicate",
    "Import",
    "Ingested",
    "Reject",
    "StoredRequests",
    "TrafficFormat",
    "TrafficWindow",
    "from_parquet",
    "ingest",
    "judge_traces",
    "read_import",
    "read_window",
    "redacted",
    "stream",
    "to_parquet",
    "write_rejects",
    "write_traffic",
]
