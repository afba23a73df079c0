"""Golden sets: one Parquet file of cases and beside it the safety head as safetensors."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from infra.errors import BadInput
from infra.identifiers import Digest
from tasks.payloads import PAYLOAD_FIELDS, all_finite, decode, encode
from tasks.records import CaseKind, GoldenCase, GoldenSet, Payload, Tensor

VERSION = "1"
_VERSION_KEY = b"requant.golden.version"
_REQUIRED = ("case_id", "domain", "language", "kind")
_SAFETY_LABELS = ("allowed", "blocked")

SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string()),
        *PAYLOAD_FIELDS,
        pa.field("domain", pa.string()),
        pa.field("language", pa.string()),
        pa.field("kind", pa.string()),  # a CaseKind
        pa.field("label", pa.string()),  # null where nobody knows the right answer
        pa.field("relevant", pa.list_(pa.string())),  # null, or the passages that a query must find
    ],
    metadata={_VERSION_KEY: VERSION.encode()},
)
"""Columns of a golden file; more columns are allowed and ignored."""


def read_golden(cases: bytes, safety_head: bytes | None, *, where: str) -> GoldenSet:
    """Read the golden set in a Parquet file, and an optional safety head.

    The digest is SHA-256 over the digests of both files.

    Args:
        cases: content of the Parquet file.
        safety_head: content of the safetensors file, if there is one.
        where: names the file in messages.

    Raises:
        BadInput: for a truncated file, wrong column types, an unknown kind, repeated case ids, a
            query without passages of this set, a safety case without its label, or no cases.
    """
    parsed = tuple(_case(row, where) for row in _rows(cases, where))
    _check(parsed, where)
    weight, bias = (None, 0.0) if safety_head is None else _safety_head(safety_head, where)
    return GoldenSet(parsed, _digest(cases, safety_head), weight, bias)


def write_golden(cases: Sequence[GoldenCase]) -> bytes:
    """Return the Parquet file of these cases; refuse what `read_golden` would refuse."""
    _check(cases, "the golden set to write")
    table = pa.Table.from_pylist([_row(case) for case in cases], schema=SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def write_safety_head(weight: Tensor, bias: float) -> bytes:
    """Return the safetensors file of a linear safety head, weight [D].

    It blocks where `embedding @ weight + bias > 0`.
    """
    tensors = {
        "weight": np.ascontiguousarray(weight, np.float32),
        "bias": np.array([bias], np.float32),
    }
    return bytes(safetensors.save(tensors))


def positions(cases: Iterable[GoldenCase], *kinds: CaseKind) -> NDArray[np.int64]:
    """Return where the cases of these kinds stand."""
    return np.array([index for index, case in enumerate(cases) if case.kind in kinds], np.int64)


def relevant_rows(
    cases: Sequence[GoldenCase], queries: NDArray[np.int64], passages: NDArray[np.int64]
) -> list[frozenset[int]]:
    """Return, per query, the rows of its relevant passages among the passages.

    Both are given by their positions in the set.
    """
    row = {cases[place].case_id: number for number, place in enumerate(passages)}
    return [frozenset(row[name] for name in cases[place].relevant) for place in queries]


def _rows(data: bytes, where: str) -> list[dict[str, object]]:
    try:
        table = pq.read_table(io.BytesIO(data))
        _check_schema(table.schema, where)
        return list(table.select(SCHEMA.names).to_pylist())
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise BadInput(
            f"{where} is not a readable Parquet file ({' '.join(str(exc).split())[:200]}): "
            "copy it again, or write it with tasks.models.golden.write_golden"
        ) from exc


def _check_schema(schema: pa.Schema, where: str) -> None:
    version = (schema.metadata or {}).get(_VERSION_KEY, b"").decode(errors="replace")
    if version != VERSION:
        raise BadInput(
            f"{where} has golden version {version!r} in its metadata, and this program reads "
            f"{VERSION!r}: "
            "write it with tasks.models.golden.write_golden"
        )
    for field in SCHEMA:
        index = schema.get_field_index(field.name)
        type_found = schema.field(index).type if index >= 0 else "missing"
        if type_found != field.type:
            raise BadInput(
                f"{where}: the column {field.name} is {type_found}: it must be {field.type}"
            )


def _case(row: Mapping[str, object], where: str) -> GoldenCase:
    case_id, domain, language, kind = (_text(row, name, where) for name in _REQUIRED)
    if kind not in list(CaseKind):
        raise BadInput(
            f"{where}, case {case_id!r}: the kind {kind!r} is unknown; allowed: "
            f"{', '.join(CaseKind)}",
        )
    label, relevant = row["label"], row["relevant"]
    return GoldenCase(
        case_id=case_id,
        payload=_payload(row, f"{where}, case {case_id!r}"),
        domain=domain,
        language=language,
        kind=CaseKind(kind),
        label=label if isinstance(label, str) else None,
        relevant=tuple(map(str, relevant)) if isinstance(relevant, list) else (),
    )


def _text(row: Mapping[str, object], name: str, where: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value:
        raise BadInput(
            f"{where}, case {row['case_id']!r}: the {name} is empty: every case needs one"
        )
    return value


def _payload(row: Mapping[str, object], where: str) -> Payload:
    try:
        payload = decode(row)
    except (BadInput, ValueError, TypeError) as exc:
        raise BadInput(f"{where}: {exc}") from exc
    if not all_finite(payload):
        raise BadInput(f"{where}: the tensor holds NaN or infinity: remove or repair the case")
    return payload


def _row(case: GoldenCase) -> dict[str, object]:
    return {
        "case_id": case.case_id,
        **encode(case.payload),
        "domain": case.domain,
        "language": case.language,
        "kind": str(case.kind),
        "label": case.label,
        "relevant": list(case.relevant) or None,
    }


def _check(cases: Sequence[GoldenCase], where: str) -> None:
    """Check what one row cannot tell: ids are unique and references lead somewhere."""
    if not cases:
        raise BadInput(f"{where} holds no cases: a golden set needs at least one")
    repeated = sorted(
        case_id for case_id, count in Counter(case.case_id for case in cases).items() if count > 1
    )
    if repeated:
        raise BadInput(
            f"{where} holds {_some(repeated)} more than once: give every case its own case_id"
        )
    passages = {case.case_id for case in cases if case.kind is CaseKind.PASSAGE}
    for case in cases:
        _check_case(case, passages, f"{where}, case {case.case_id!r}")


def _check_case(case: GoldenCase, passages: set[str], where: str) -> None:
    if case.kind is CaseKind.SAFETY and case.label not in _SAFETY_LABELS:
        raise BadInput(
            f"{where}: the label of a safety case is {case.label!r}; allowed: "
            f"{', '.join(_SAFETY_LABELS)}"
        )
    if case.kind is CaseKind.CODE and not (case.label or "").strip():
        raise BadInput(f"{where}: a code case needs checks in its label, one expression a line")
    if case.kind is CaseKind.QUERY and not case.relevant:
        raise BadInput(f"{where}: a query needs at least one case_id in `relevant`")
    if case.kind is not CaseKind.QUERY and case.relevant:
        raise BadInput(
            f"{where}: `relevant` belongs to queries, and this is a {case.kind} case: leave it "
            "empty"
        )
    missing = [name for name in case.relevant if name not in passages]
    if missing:
        raise BadInput(
            f"{where}: `relevant` names {_some(missing)}, which is no passage of this set: add or "
            "remove it"
        )


def _safety_head(data: bytes, where: str) -> tuple[Tensor, float]:
    """Parse the weight [D] and the bias of the linear safety head."""
    try:
        tensors: Mapping[str, Tensor] = safetensors.load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as exc:
        raise BadInput(
            f"the safety head of {where} is not a safetensors file ({exc}): copy it again"
        ) from exc
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or bias is None or weight.ndim != 1 or not weight.size or bias.shape != (1,):
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        raise BadInput(
            f"the safety head of {where} holds {shapes}: it must hold weight [D] and bias [1]"
        )
    if any(t.dtype != np.float32 or not np.isfinite(t).all() for t in (weight, bias)):
        raise BadInput(
            f"the safety head of {where} holds other than finite float32 numbers: export it again"
        )
    return weight, float(bias[0])


def _digest(cases: bytes, safety_head: bytes | None) -> Digest:
    parts = [cases] if safety_head is None else [cases, safety_head]
    return Digest(sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest())


def _some(names: Iterable[str], most: int = 3) -> str:
    """Join the first few names, so that a message stays one line."""
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(repr(name) for name in listed[:most]) + rest
