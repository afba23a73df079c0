"""Which files of a Delta table count, by its log.

A table's folder also holds files whose rows were deleted or written anew. Source:
https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from infra.errors import BadInput

LOG = "_delta_log"


def live_files(table: Path) -> frozenset[Path]:
    """Return the files of a table's newest version.

    Raises:
        BadInput: The log does not begin with version 0, or marks rows of files as deleted: another
            reader has to say what counts.
    """
    commits = sorted(file for file in (table / LOG).glob("*.json") if file.stem.isdecimal())
    if [int(commit.stem) for commit in commits] != list(range(len(commits))) or not commits:
        raise _unread(table, "its log begins with a checkpoint")
    live: set[Path] = set()
    for commit in commits:
        for action in _actions(commit):
            if "add" in action:
                if action["add"].get("deletionVector"):
                    raise _unread(table, "rows are deleted by vectors beside its files")
                live.add(table / unquote(action["add"]["path"]))
            elif "remove" in action:
                live.discard(table / unquote(action["remove"]["path"]))
    return frozenset(live)


def _actions(commit: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in commit.read_text().splitlines() if line]
    except (OSError, ValueError) as error:
        raise BadInput(f"{commit} cannot be read: copy the whole table again") from error


def _unread(table: Path, why: str) -> BadInput:
    return BadInput(
        f"{table} is a Delta table that cannot be read as files ({why}): "
        "write its rows to a folder of Parquet first"
    )
