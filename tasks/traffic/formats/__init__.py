"""Files that serving stacks write, each format read into records.

`tasks.traffic.checks` judges the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from infra.errors import BadInput
from tasks.traffic.formats.chat import read_chats
from tasks.traffic.formats.kserve import read_kserve
from tasks.traffic.formats.lines import read_lines
from tasks.traffic.formats.raw import Raw, Source
from tasks.traffic.formats.tables.columns import read_rows
from tasks.traffic.formats.traces import read_traces
from tasks.traffic.formats.triton import read_triton


class TrafficFormat(StrEnum):
    """What a traffic file may be."""

    PARQUET = "requant-parquet"
    JSONL = "jsonl"
    KSERVE = "kserve"
    TRITON = "triton"
    CHAT = "openai-chat"
    TRACES = "mlflow-traces"


def _each(read: Callable[[Path], Iterator[Raw]]) -> Callable[[Source], Iterator[Raw]]:
    return lambda source: (raw for path in source.files for raw in read(path))


READERS: Mapping[TrafficFormat, Callable[[Source], Iterator[Raw]]] = {
    TrafficFormat.PARQUET: _each(read_rows),
    TrafficFormat.JSONL: _each(read_lines),
    TrafficFormat.KSERVE: read_kserve,
    TrafficFormat.TRITON: read_triton,
    TrafficFormat.CHAT: read_chats,
    TrafficFormat.TRACES: read_traces,
}
_BY_SUFFIX = {
    ".parquet": TrafficFormat.PARQUET,
    ".jsonl": TrafficFormat.JSONL,
    ".ndjson": TrafficFormat.JSONL,
}


def format_of(path: Path) -> TrafficFormat:
    """Return the format that the extension tells.

    Raises:
        BadInput: The extension tells none.
    """
    if path.suffix not in _BY_SUFFIX:
        names = ", ".join(TrafficFormat)
        raise BadInput(
            f"{path} is neither .jsonl nor .parquet: "
            "convert it, give it the right extension, or say what it is with "
            f"--format, one of {names}"
        )
    return _BY_SUFFIX[path.suffix]


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the file itself, or every file of a folder in the order of their names.

    Raises:
        BadInput: The folder has no files.
    """
    if not path.is_dir():
        return (path,)
    files = tuple(
        sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    )
    if not files:
        raise BadInput(
            f"{path} is a folder without files: "
            "give the path of a file, or of a folder that holds some"
        )
    return files


__all__ = ["READERS", "TrafficFormat", "files_of", "format_of"]
