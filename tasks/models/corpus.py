"""Shipped data, before it is anyone's traffic.

One Parquet row holds a text or tensor with its domain and language.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import BadInput
from infra.identifiers import RequestId
from tasks.payloads import PAYLOAD_FIELDS, decode, encode
from tasks.records import Request

COLUMNS = ("id", *(field.name for field in PAYLOAD_FIELDS), "domain", "language", "label")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_corpus(data: bytes, *, where: str) -> tuple[Request, ...]:
    """Return the rows as requests of tenant "corpus", at the epoch.

    Raises:
        BadInput: when a row or column is wrong.
    """
    try:
        table = pq.read_table(BytesIO(data))
    except (pa.ArrowException, OSError) as exc:
        raise BadInput(
            f"{where} is not a readable Parquet file ({' '.join(str(exc).split())[:200]}): write "
            "it again"
        ) from exc
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise BadInput(
            f"{where} lacks the columns {', '.join(missing)}; it needs {', '.join(COLUMNS)}"
        )
    if not table.num_rows:
        raise BadInput(f"{where} has no rows")
    requests = tuple(
        _request(row, f"{where}, row {number}") for number, row in enumerate(table.to_pylist())
    )
    ((often, times),) = Counter(item.request_id for item in requests).most_common(1)
    if times > 1:
        raise BadInput(f"{where}: {times} rows have the id {often!r}; give each row its own")
    return requests


def write_corpus(requests: Sequence[Request]) -> bytes:
    """Return the Parquet file of these rows; refuse what `read_corpus` would refuse."""
    rows = [
        {
            "id": request.request_id,
            **encode(request.payload),
            "domain": request.domain,
            "language": request.language,
            "label": request.label,
        }
        for request in requests
    ]
    fields = [pa.field(name, pa.string()) for name in ("id", "domain", "language", "label")]
    schema = pa.schema([fields[0], *PAYLOAD_FIELDS, *fields[1:]])
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    read_corpus(buffer.getvalue(), where="the corpus to write")
    return buffer.getvalue()


def guardrail_cases(pool: Sequence[Request], domains: Collection[str]) -> tuple[Request, ...]:
    """Return the pool's cases of these domains; raise `BadInput` when it has none of one."""
    missing = sorted(set(domains) - {request.domain for request in pool})
    if missing:
        domains_there = ", ".join(sorted({request.domain for request in pool})) or "none"
        raise BadInput(
            f"calibration.guardrails names {missing[0]!r}, and the calibration pool has no such "
            f"domain: it has {domains_there}"
        )
    return tuple(request for request in pool if request.domain in set(domains))


def _request(row: dict[str, object], where: str) -> Request:
    if not all(isinstance(row[name], str) and row[name] for name in ("id", "domain", "language")):
        raise BadInput(f"{where}: id, domain and language must be texts that are not empty")
    try:
        payload = decode(row)
    except BadInput as exc:
        raise BadInput(f"{where}: {exc}") from exc
    label = row["label"]
    return Request(
        request_id=RequestId(str(row["id"])),
        time=EPOCH,
        tenant="corpus",
        domain=str(row["domain"]),
        language=str(row["language"]),
        payload=payload,
        label=None if label is None else str(label),
    )
