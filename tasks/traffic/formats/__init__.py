"""Files that serving stacks write, each format read into records.

`tasks.traffic.checks` judges the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from infra.errors import BadInput
from tasks.traffic.formats.chat import read_chats
from tasks.traffic.formats.files import files_of, partition_of, with_partition
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


def _read_rows(source: Source) -> Iterator[Raw]:
    for path in source.files:
        partition = partition_of(source.named(path))
        rows = read_rows(path, naive=source.zone is not None, elsewhere=partition.keys())
        yield from (with_partition(row, partition) for row in rows)


def _read_lines(source: Source) -> Iterator[Raw]:
    for path in source.files:
        partition = partition_of(source.named(path))
        yield from (with_partition(line, partition) for line in read_lines(path))


READERS: Mapping[TrafficFormat, Callable[[Source], Iterator[Raw]]] = {
    TrafficFormat.PARQUET: _read_rows,
    TrafficFormat.JSONL: _read_lines,
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
    """Return the format that the extension tells, of a folder that of its files.

    Raises:
        BadInput: The extension tells none.
    """
    suffixes = {path.suffix}
    if path.suffix not in _BY_SUFFIX and path.is_dir():
        suffixes = {file.suffix for file in files_of(path)}
    if len(suffixes) > 1 or not suffixes <= _BY_SUFFIX.keys():
        names = ", ".join(TrafficFormat)
        raise BadInput(
            f"{path} is neither .jsonl nor .parquet: "
            "convert it, give it the right extension, or say what it is with "
            f"--format, one of {names}"
        )
    return _BY_SUFFIX[suffixes.pop()]


__all__ = ["READERS", "TrafficFormat", "format_of"]
