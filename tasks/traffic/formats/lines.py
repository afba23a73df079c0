"""JSON Lines, one record a line: a bad line is set aside and never loses the others."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from tasks.traffic.formats.raw import LONGEST_LINE, RAW_KEPT, Bad, Raw


def read_lines(path: Path) -> Iterator[Raw]:
    """Read every line that is not empty; a line that is no JSON object fails when it is parsed."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            complete = len(line) < LONGEST_LINE or line.endswith(b"\n")
            if not complete:
                _skip_line(file)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield _raw_line(number, line, complete)


def _skip_line(file: BinaryIO) -> None:
    while rest := file.readline(LONGEST_LINE):
        if rest.endswith(b"\n"):
            return


def _raw_line(number: int, line: bytes, whole: bool) -> Raw:
    def parse() -> Mapping[str, object]:
        if not whole:
            raise Bad(f"the line has more than {LONGEST_LINE} bytes")
        return _parsed(line)

    return Raw(number, line[:RAW_KEPT].decode(errors="replace"), parse)


def _parsed(line: bytes) -> Mapping[str, object]:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise Bad(f"the line is not valid UTF-8 at byte {error.start + 1}") from None
    except (ValueError, RecursionError) as error:
        raise Bad(
            "the line is not JSON: "
            f"{getattr(error, 'msg', 'it is nested too deeply or holds a huge number')}"
        ) from None
    if not isinstance(record, dict):
        raise Bad("the line is not a JSON object")
    return record
