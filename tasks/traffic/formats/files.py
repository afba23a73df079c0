"""Which files of a folder are traffic, and what their names tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from infra.errors import BadInput
from tasks.traffic.formats.delta import LOG, live_files
from tasks.traffic.formats.raw import Bad, Raw

UNFINISHED = (".tmp", ".temp", ".part", ".partial", ".crdownload", ".filepart", ".swp", "~")
"""Ends of names that writers give to files in the making."""
PARTITION_COLUMNS = ("tenant", "domain", "language", "label", "decision", "model_version", "time")
"""Columns that a name such as `language=ja` may stand for; others, such as `dt=…`, are ignored."""
_NULL = "__HIVE_DEFAULT_PARTITION__"


def is_finished(name: str) -> bool:
    """Tell whether a name is that of whole data: not hidden, no marker, not in the making."""
    parts = PurePosixPath(name).parts
    return not any(part.startswith((".", "_")) for part in parts) and not name.endswith(UNFINISHED)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the file itself, or every finished file of a folder in the order of their names.

    Hidden files, markers such as `_SUCCESS`, files in the making and empty ones are left out; of a
    Delta table also those that its log has removed.

    Raises:
        BadInput: The folder has no such files, or is a Delta table that cannot be read.
    """
    if not path.is_dir():
        return (path,)
    files = tuple(
        sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and is_finished(str(file.relative_to(path))) and file.stat().st_size
        )
    )
    if (path / LOG).is_dir():
        live = live_files(path)
        files = tuple(file for file in files if file in live)
    if not files:
        raise BadInput(
            f"{path} is a folder without files: "
            "give the path of a file, or of a folder that holds some"
        )
    return files


def partition_of(name: str) -> dict[str, str]:
    """Return what the folders in a file's name say of its rows, as Hive and Spark write it."""
    pairs = (part.partition("=") for part in PurePosixPath(name).parts[:-1])
    return {
        column: unquote(value)
        for column, equals, value in pairs
        if equals and column in PARTITION_COLUMNS and value not in ("", _NULL)
    }


def with_partition(raw: Raw, partition: Mapping[str, str]) -> Raw:
    """Return a record with the columns that the names of its folders tell.

    It fails where the record itself says something else.
    """
    if not partition:
        return raw
    return Raw(raw.number, raw.excerpt, _joined(raw.parse, partition), raw.lone)


def _joined(
    parse: Callable[[], Mapping[str, object]], partition: Mapping[str, str]
) -> Callable[[], Mapping[str, object]]:
    def parsed() -> Mapping[str, object]:
        record = parse()
        for column, value in partition.items():
            own = record.get(column)
            if own not in (None, "", value) and str(own) != value:
                raise Bad(f"{column} differs between the record and the name of its folder")
        return {**record, **partition}

    return parsed
