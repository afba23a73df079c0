"""JSON documents one after another: JSON Lines, one array, or values in a row.

Never more than one is in memory.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from infra.errors import BadInput
from tasks.traffic.formats.lines import read_lines
from tasks.traffic.formats.raw import LONGEST_LINE, RAW_KEPT, Bad, Source

CHUNK = 1 << 20  # bytes read at a time
_BETWEEN = " \t\r\n,"
_OF_LINES = (".jsonl", ".ndjson")

Repair = Callable[[str, int], tuple[Any, int] | None]
"""From text and place of what is no JSON to what was meant and where it ends.

It gives None when that is not known.
"""


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON object of a file."""

    number: int  # from 1, over all files
    excerpt: str
    value: Mapping[str, Any]
    problem: str | None = None  # why it is no object
    path: Path = Path()  # of its file
    place: int = 0  # in its file, from 1

    def fields(self) -> Mapping[str, Any]:
        """Return what the object holds; raises `Bad` when it is none."""
        if self.problem:
            raise Bad(self.problem)
        return self.value


def read_documents(source: Source, repair: Repair | None = None) -> Iterator[Document]:
    """Read every object of a source's files.

    Where an array or a row of values breaks off, `source.ended` is told and the next file read;
    without it `BadInput` is raised.
    """
    number = 0
    for path in source.files:
        place, broken = 0, None
        try:
            for place, (excerpt, value, problem) in enumerate(_read(path, repair), 1):
                number += 1
                if problem is None and not isinstance(value, dict):
                    problem = "it is not a JSON object"
                yield Document(
                    number,
                    excerpt[:RAW_KEPT],
                    value if problem is None else {},
                    problem,
                    path,
                    place,
                )
        except (BadInput, OSError) as error:
            if source.ended is None:
                raise
            broken = error
        if source.ended is not None:
            source.ended(path, place, broken)


def _read(path: Path, repair: Repair | None) -> Iterator[tuple[str, Any, str | None]]:
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    if path.suffix in _OF_LINES and not start.startswith(b"["):
        for raw in read_lines(path):
            try:
                yield raw.excerpt, raw.parse(), None
            except Bad as bad:
                yield raw.excerpt, None, str(bad)
        return
    with path.open("rb") as file:
        for text, value in _Values(file, path, repair):
            yield text, value, None


class _Values:
    """The values of an array, or of values in a row.

    They are decoded from a window that slides over the file.
    """

    def __init__(self, file: BinaryIO, path: Path, repair: Repair | None) -> None:
        self._file, self._path, self._repair = file, path, repair
        # Bytes that are no UTF-8 become lone surrogates, which the checks refuse in the one record
        # that holds them.
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape")
        self._decoder = json.JSONDecoder()
        self._text, self._place, self._passed, self._ended = "", 0, 0, False

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        opened = False
        while (letter := self._next()) is not None:
            if letter == "[" and not opened:
                opened = True
                self._place += 1
            elif letter == "]" and opened:
                return
            else:
                opened = True
                begin = self._place
                value, self._place = self._value()
                yield self._text[begin : min(self._place, begin + RAW_KEPT)], value

    def _next(self) -> str | None:
        """Return the next letter that is no separator.

        It is None at the end, which an array in the making may lack a ] at.
        """
        while True:
            while self._place < len(self._text):
                if self._text[self._place] not in _BETWEEN:
                    self._slide()
                    return self._text[self._place]
                self._place += 1
            if self._ended:
                return None
            self._fill(CHUNK)

    def _value(self) -> tuple[Any, int]:
        while True:
            try:
                return self._decoder.raw_decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                mended = self._repair(self._text, self._place) if self._repair else None
                if mended is not None:
                    return mended
                unread = len(self._text) - self._place
                if self._ended or unread > LONGEST_LINE:
                    raise self._broken(error) from error
                self._fill(
                    max(CHUNK, unread)
                )  # doubling keeps one large value from being parsed over and over

    def _slide(self) -> None:
        if self._place > CHUNK:
            self._text, self._passed, self._place = (
                self._text[self._place :],
                self._passed + self._place,
                0,
            )

    def _fill(self, size: int) -> None:
        data = self._file.read(size)
        self._ended = not data
        self._text += self._utf8.decode(data, final=not data)

    def _broken(self, error: Exception) -> BadInput:
        where = self._passed + self._place + 1
        reason = getattr(error, "msg", "it is nested too deeply")
        return BadInput(
            f"{self._path} is not whole JSON from letter {where} on ({reason}): "
            "write or fetch it again; "
            "what stands before was taken in"
        )
