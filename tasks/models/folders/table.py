"""The table of labels: CSV or TSV with a header, or JSON Lines; a row is a case.

A row has `file`, relative to the folder, or `text`; optional are `id`, `domain`, `language`,
`kind` (of a golden case), `label` and `label_file`, whose content becomes the label.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.errors import BadInput

COLUMNS = ("id", "file", "text", "domain", "language", "kind", "label", "label_file")
JSON_LINES = frozenset({".jsonl", ".ndjson"})


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One row, with what to call it in an error."""

    fields: Mapping[str, object]
    where: str

    def text(self, column: str) -> str | None:
        """Return a column as text; None where the row leaves it empty."""
        value = self.fields.get(column)
        if value is None or value == "":
            return None
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_table(path: Path) -> tuple[LabelRow, ...]:
    """Read every row.

    Raises:
        BadInput: naming the row, for an unknown column, or no row at all.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        parsed = _json_lines(text) if path.suffix.lower() in JSON_LINES else _csv(path, text)
    except (OSError, ValueError, csv.Error) as exc:
        raise BadInput(
            f"{path} cannot be read ({' '.join(str(exc).split())}): CSV or TSV with a header, or "
            "JSON Lines, in UTF-8 is needed"
        ) from exc
    if not parsed:
        raise BadInput(f"{path} has no rows: one a file is needed")
    rows = tuple(
        LabelRow(fields, f"{path}, row {number}") for number, fields in enumerate(parsed, 1)
    )
    for row in rows:
        _require_known(row)
    return rows


def _json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _csv(path: Path, text: str) -> list[dict[str, object]]:
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(reader, [])]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"the column {twice[0]} stands there twice")
    rows: list[dict[str, object]] = []
    for fields in reader:
        if not any(fields):
            continue
        if len(fields) > len(header):
            raise ValueError(
                f"row {len(rows) + 1} has {len(fields)} fields and the header {len(header)}: put "
                "a field that holds the separator in double quotes"
            )
        rows.append(dict(zip(header, fields, strict=False)))
    return rows


def _require_known(row: LabelRow) -> None:
    if not isinstance(row.fields, Mapping):
        raise BadInput(f"{row.where}: {str(row.fields)[:40]!r} is no JSON object")
    strange = [str(name) for name in row.fields if name not in COLUMNS]
    if strange:
        raise BadInput(
            f"{row.where}: the column {strange[0][:60]!r} is unknown; allowed are "
            f"{', '.join(COLUMNS)}, separated by commas in .csv and by tabs in .tsv"
        )
