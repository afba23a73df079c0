"""Every row of a table with its file, and the Parquet files that are written from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from infra.errors import BadInput
from infra.identifiers import RequestId
from tasks.models.corpus import EPOCH, write_corpus
from tasks.models.folders.files import read_label, read_payload
from tasks.models.folders.table import LabelRow, read_table
from tasks.models.golden import write_golden
from tasks.records import UNKNOWN, CaseKind, GoldenCase, Payload, Request


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One row of the table, read."""

    name: str
    payload: Payload
    domain: str
    language: str
    label: str | None
    kind: CaseKind = CaseKind.PLAIN  # what a golden case of it is used for


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """All rows of a table, and what the folder holds beside them."""

    files: tuple[LabelledFile, ...]
    unnamed: int  # files of the same kinds that no row names

    @property
    def labelled(self) -> int:
        """Return how many have a label."""
        return sum(item.label is not None for item in self.files)


def read_folder(folder: Path, labels: Path) -> LabelledFolder:
    """Read every row of the table with its file.

    Raises:
        BadInput: naming the row, for a file that cannot be read or stands there twice, an unknown
            column, no row, or rows of different kinds.
    """
    if not folder.is_dir():
        raise BadInput(
            f"{folder} is no folder: name the one that the table's files are relative to"
        )
    rows = read_table(labels)
    _require_single(rows)
    files = tuple(_read(row, folder) for row in rows)
    _require_one_kind(rows, files)
    named = {str(row.fields[column]) for row in rows for column in _FILES if row.text(column)}
    suffixes = {Path(name).suffix.lower() for name in named}
    there = [path for path in folder.rglob("*") if path.is_file() and path != labels]
    unnamed = [
        path
        for path in there
        if path.suffix.lower() in suffixes and path.relative_to(folder).as_posix() not in named
    ]
    return LabelledFolder(files, len(unnamed))


def golden_of(files: Sequence[LabelledFile]) -> bytes:
    """Return the golden set's Parquet file of these."""
    return write_golden(
        [
            GoldenCase(
                item.name, item.payload, item.domain, item.language, item.kind, label=item.label
            )
            for item in files
        ]
    )


def pool_of(files: Sequence[LabelledFile]) -> bytes:
    """Return the calibration pool's Parquet file of these."""
    return write_corpus(
        [
            Request(
                request_id=RequestId(item.name),
                time=EPOCH,
                tenant="corpus",
                domain=item.domain,
                language=item.language,
                payload=item.payload,
                label=item.label,
            )
            for item in files
        ]
    )


def write_whole(output: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises `BadInput` where it cannot be written."""
    partial = output.with_name(f".{output.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(output)
    except OSError as exc:
        with suppress(OSError):
            partial.unlink()
        raise BadInput(f"{output} cannot be written: {exc.strerror}") from exc


_FILES = ("file", "label_file")


def _require_single(rows: Sequence[LabelRow]) -> None:
    """Refuse a row that names the file, the text or the id of another one."""
    readers: Mapping[str, Callable[[LabelRow], str | None]] = {
        "id": lambda row: row.text("id"),
        "file": lambda row: Path(name).as_posix() if (name := row.text("file")) else None,
        "text": lambda row: row.text("text"),
    }
    for column, read in readers.items():
        first: dict[str, LabelRow] = {}
        for row in rows:
            value = read(row)
            if value is None:
                continue
            if value in first:
                same = first[value].text("label") == row.text("label")
                labels = "" if same else ", with another label"
                raise BadInput(
                    f"{row.where}: the {column} {value[:60]!r} stands in {first[value].where} "
                    f"already{labels}: keep one"
                )
            first[value] = row


def _read(row: LabelRow, folder: Path) -> LabelledFile:
    file, text = row.text("file"), row.text("text")
    if (file is None) == (text is None):
        raise BadInput(f"{row.where}: give file or text")
    if row.text("label") is not None and row.text("label_file") is not None:
        raise BadInput(f"{row.where}: give label or label_file")
    return LabelledFile(
        name=row.text("id") or file or row.where.rpartition(" ")[2],
        payload=text if file is None else _named(read_payload, folder, file, row),  # type: ignore[arg-type]
        domain=row.text("domain") or UNKNOWN,
        language=row.text("language") or UNKNOWN,
        label=row.text("label") or _label_of_file(row, folder),
        kind=_case_kind(row),
    )


def _case_kind(row: LabelRow) -> CaseKind:
    kind = row.text("kind") or CaseKind.PLAIN
    if kind not in list(CaseKind):
        raise BadInput(
            f"{row.where}: the kind {kind[:60]!r} is unknown; allowed are {', '.join(CaseKind)}"
        )
    return CaseKind(kind)


def _label_of_file(row: LabelRow, folder: Path) -> str | None:
    name = row.text("label_file")
    return None if name is None else str(_named(read_label, folder, name, row))


def _named(read: Callable[[Path, str], Payload], folder: Path, name: str, row: LabelRow) -> Payload:
    try:
        return read(folder, name)
    except BadInput as exc:
        raise BadInput(f"{row.where}, {name}: {exc}") from exc


def _require_one_kind(rows: Sequence[LabelRow], files: Sequence[LabelledFile]) -> None:
    kinds = [_kind(item.payload) for item in files]
    for row, kind in zip(rows, kinds, strict=True):
        if kind != kinds[0]:
            raise BadInput(
                f"{row.where} holds {kind}, and the first row {kinds[0]}: a model reads one kind"
            )


def _kind(payload: Payload) -> str:
    if isinstance(payload, str):
        return "a text"
    return ", ".join(sorted(payload)) if isinstance(payload, Mapping) else "a tensor"
