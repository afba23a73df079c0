"""Objects are read from copies that nobody else may read, one at a time."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest

from infra.errors import NotFound
from infra.stores.port import Listed
from tasks.traffic.formats.files import is_finished
from tasks.traffic.sources.places import Folder, Objects

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class TwoObjects:
    """The port `Bucket` with a marker and one object.

    The second key of the listing is gone by now.
    """

    def browse(self) -> Iterator[Listed]:
        for key, size in (("day/", 0), ("day/a.jsonl", 3), ("day/gone.jsonl", 3)):
            yield Listed(key, size, NOON, "etag")

    def copy(self, key: str, file: BinaryIO) -> None:
        if key.endswith("gone.jsonl"):
            raise NotFound("there is no such object")
        file.write(b"{}\n")


def test_a_copy_is_private_keeps_the_extension_and_is_gone_afterwards(tmp_path: Path) -> None:
    place = Objects("s3://logs", TwoObjects(), tmp_path / "scratch")
    whole, gone = place.files()
    with place.open(whole) as path:
        assert (path.read_bytes(), path.suffix, path.stat().st_mode & 0o777) == (
            b"{}\n",
            ".jsonl",
            0o600,
        )
        assert path.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(NotFound), place.open(gone):
        pass
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    "name", ["a.jsonl", "date=2026-03-01/part-0.parquet", "trace.0", "a_b/c.json"]
)
def test_a_plain_name_is_that_of_a_whole_file(name: str) -> None:
    assert is_finished(name)


@pytest.mark.parametrize(
    "name", ["_SUCCESS", ".a.jsonl", ".git/a.jsonl", "a.jsonl~", "a.parquet.tmp", "x/_delta/a.json"]
)
def test_hidden_names_markers_and_files_in_the_making_are_not(name: str) -> None:
    assert not is_finished(name)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """Whoever may write into the folder must not have other files of this account read."""
    inbox, elsewhere = tmp_path / "inbox", tmp_path / "elsewhere"
    inbox.mkdir()
    elsewhere.mkdir()
    (elsewhere / "private.jsonl").write_text("{}\n")
    (inbox / "own.jsonl").write_text("{}\n")
    (inbox / "out.jsonl").symlink_to(elsewhere / "private.jsonl")
    (inbox / "within.jsonl").symlink_to(inbox / "own.jsonl")
    assert {file.name for file in Folder(inbox).files()} == {"own.jsonl", "within.jsonl"}
