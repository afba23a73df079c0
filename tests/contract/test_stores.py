"""What every adapter of `ObjectStore` keeps to, and what each does when its medium fails."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from infra.canonical import sha256
from infra.errors import AlreadyExists, BadInput, NotFound, Unavailable
from infra.stores import ObjectStore, open_store
from tests.contract.conftest import OpenAgain, S3Server, free_port

# --- every store ----------------------------------------------------------------------------------
# --------------------


def test_what_was_put_is_got_back(store: ObjectStore) -> None:
    store.put("a/b.bin", b"\x00\xff\r\n")
    assert store.get("a/b.bin") == b"\x00\xff\r\n"


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.exists("empty")
    assert store.get("empty") == b""


def test_a_store_travels_to_another_process_as_its_address(store: ObjectStore) -> None:
    store.put("key", b"value")
    assert pickle.loads(pickle.dumps(store)).get("key") == b"value"


def test_put_replaces(store: ObjectStore) -> None:
    store.put("key", b"a much longer first value")
    store.put("key", b"second")
    assert store.get("key") == b"second"


def test_a_stamp_differs_once_the_bytes_were_written_anew(store: ObjectStore) -> None:
    store.put("folder/key", b"first")
    store.put("folder/other", b"stays")
    one, all_of_it = store.stamp("folder/key"), store.stamps("folder/")
    assert set(all_of_it) == {"folder/key", "folder/other"}
    assert (store.stamp("folder/key"), store.stamps("folder/")) == (one, all_of_it)
    store.put("folder/key", b"other")  # of the same length
    assert store.stamp("folder/key") != one
    changed = store.stamps("folder/")
    assert changed["folder/key"] != all_of_it["folder/key"]
    assert changed["folder/other"] == all_of_it["folder/other"]
    assert store.stamps("nothing/") == {}
    with pytest.raises(NotFound):
        store.stamp("folder/none")


def test_a_sweep_leaves_what_is_stored(store: ObjectStore) -> None:
    store.put("key", b"value")
    assert store.sweep() == 0
    assert store.get("key") == b"value"


def test_a_large_object_comes_back_whole(store: ObjectStore) -> None:
    data = os.urandom(1 << 20) * 24
    store.put("large", data)
    assert store.get("large") == data


def test_a_digest_is_that_of_the_bytes_that_are_there_now(store: ObjectStore) -> None:
    for data in (b"", bytes(3 << 20) + b"end"):
        store.put("a/b.bin", data)
        assert store.digest("a/b.bin") == sha256(data)
    with pytest.raises(NotFound, match=r"b2\.bin"):
        store.digest("a/b2.bin")


def test_files_travel_both_ways_and_replace(store: ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"\x00\xff" * 5_000_000)  # more than S3 takes in one piece
    store.put("folder/file", b"before")
    store.put_file("folder/file", source)
    source.unlink()
    store.get_file("folder/file", target)
    assert target.read_bytes() == store.get("folder/file") == b"\x00\xff" * 5_000_000
    with pytest.raises(NotFound):
        store.get_file("folder/absent", tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_missing_object_is_not_found_and_does_not_exist(store: ObjectStore) -> None:
    with pytest.raises(NotFound, match=r"no/such\.json"):
        store.get("no/such.json")
    assert not store.exists("no/such.json")


def test_a_folder_of_objects_is_no_object(store: ObjectStore) -> None:
    store.put("a/b/c", b"1")
    assert not store.exists("a/b")
    with pytest.raises(NotFound):
        store.get("a/b")


def test_delete_removes_and_an_absent_key_is_fine(store: ObjectStore) -> None:
    store.put("gone", b"1")
    store.delete("gone")
    store.delete("gone")
    store.delete("never/was")
    assert not store.exists("gone")


def test_create_writes_once_and_never_over_another(store: ObjectStore) -> None:
    store.create("ledger/1", b"first")
    with pytest.raises(AlreadyExists, match="ledger/1"):
        store.create("ledger/1", b"second")
    assert store.get("ledger/1") == b"first"


def test_create_finding_equal_bytes_of_another_writer_has_still_lost(store: ObjectStore) -> None:
    store.create("key", b"same")
    with pytest.raises(AlreadyExists):
        store.create("key", b"same")


def test_a_deleted_key_can_be_created_again(store: ObjectStore) -> None:
    store.create("key", b"1")
    store.delete("key")
    store.create("key", b"2")
    assert store.get("key") == b"2"


def test_of_many_concurrent_creators_exactly_one_wins(open_again: OpenAgain) -> None:
    stores, gate = [open_again() for _ in range(8)], threading.Barrier(8)
    for turn in range(10):
        key = f"race/{turn}"
        with ThreadPoolExecutor(8) as pool:
            won = list(
                pool.map(_create_at, [gate] * 8, stores, [key] * 8, [b"%d" % n for n in range(8)])
            )
        assert sum(won) == 1
        assert stores[0].get(key) == b"%d" % won.index(True)


def _create_at(gate: threading.Barrier, store: ObjectStore, key: str, data: bytes) -> bool:
    gate.wait()
    try:
        store.create(key, data)
    except AlreadyExists:
        return False
    return True


def test_readers_see_the_old_bytes_or_the_new_ones(open_again: OpenAgain) -> None:
    one, other, sizes = open_again(), open_again(), (100_000, 300_000)
    one.put("key", b"x" * sizes[0])
    with ThreadPoolExecutor(1) as pool:
        writes = pool.submit(lambda: [one.put("key", b"x" * sizes[n % 2]) for n in range(20)])
        while not writes.done():
            assert len(other.get("key")) in sizes
        writes.result()


def test_keys_are_listed_by_prefix_in_lexicographic_order(store: ObjectStore) -> None:
    keys = ["a/1", "a/2", "a-b/1", "a/b/c", "ab", "b/1", "ä/1", "日本/1", "Z", "a/10"]
    for key in keys:
        store.put(key, b"")
    assert list(store.list("")) == sorted(keys)
    assert list(store.list("a")) == ["a-b/1", "a/1", "a/10", "a/2", "a/b/c", "ab"]
    assert list(store.list("a/")) == ["a/1", "a/10", "a/2", "a/b/c"]
    assert list(store.list("a/1")) == ["a/1", "a/10"]
    assert list(store.list("c")) == []


def test_a_listing_longer_than_a_page_is_complete(store: ObjectStore) -> None:
    keys = [f"many/{number:05d}" for number in range(1_050)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert list(store.list("many/")) == keys


def test_names_with_spaces_and_marks_are_kept(store: ObjectStore) -> None:
    key = "date=2026-01-01/hour=03/what a + name%20?#&.txt"
    store.create(key, b"1")
    assert list(store.list("date=")) == [key]
    assert store.get(key) == b"1"


BAD_KEYS = [
    "",
    "/abs",
    "a//b",
    "a/",
    "..",
    "a/../b",
    "../a",
    "./a",
    "a\\b",
    "a\nb",
    ".partial/x",
    "x" * 300,
    "a/" * 600,
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_leaves_the_store_or_fits_not_every_store_is_refused(
    store: ObjectStore, key: str
) -> None:
    for attempt in (
        store.get,
        store.exists,
        store.delete,
        lambda k: store.put(k, b""),
        lambda k: store.create(k, b""),
    ):
        with pytest.raises(BadInput):
            attempt(key)


@pytest.mark.parametrize("prefix", ["../", "/", "a/../", "a//"])
def test_a_prefix_that_leaves_the_store_is_refused(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(BadInput):
        list(store.list(prefix))


def test_the_url_is_the_one_that_opened_it(open_again: OpenAgain) -> None:
    assert open_again().url == open_again().url


# --- addresses ------------------------------------------------------------------------------------
# --------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gs://bucket/x",
        "http://host/x",
        "s3://",
        "s3://user:key@bucket/x",
        "s3://b/../c",
        "file://host/x",
    ],
)
def test_an_address_of_another_kind_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput):
        open_store(url)


def test_a_folder_is_named_by_path_or_by_url(tmp_path: Path) -> None:
    open_store(str(tmp_path / "with space")).put("key", b"1")
    assert open_store((tmp_path / "with space").as_uri()).get("key") == b"1"


# --- a folder that fails
# ----------------------------------------------------------------------------------------------

_FILL = """
import resource, sys
from infra.errors import Unavailable
from infra.stores import open_store
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
store = open_store(sys.argv[1])
store.put("kept", b"old")
for write in (store.put, store.create):
    for key in ("kept", "new"):
        try:
            write(key, b"x" * 1_000_000)
        except Unavailable as error:
            print(error)
"""


def test_no_space_left_is_unavailable_says_what_to_do_and_leaves_nothing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _FILL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    said = run.stdout.splitlines()
    assert len(said) == 4
    assert all("free space" in line for line in said)
    store = open_store(str(tmp_path))
    assert list(store.list("")) == ["kept"]
    assert store.get("kept") == b"old"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept"]


def test_a_file_where_the_folder_must_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = open_store(str(tmp_path / "file"))
    with pytest.raises(Unavailable, match="file where a folder must be"):
        store.put("key", b"1")


def test_unfinished_writes_of_a_killed_process_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "tmpxyz").write_bytes(b"half")
    assert list(open_store(str(tmp_path)).list("")) == []


# --- a server that fails
# ----------------------------------------------------------------------------------------------


class _Script(ThreadingHTTPServer):
    """Answer PUTs as scripted, then as an honest tiny S3.

    "lose" stores the object and answers 500.
    """

    def __init__(self, script: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.objects: dict[str, bytes] = {}
        self.puts = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Script
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.server.puts += 1
        data = self.rfile.read(int(self.headers["Content-Length"]))
        step = self.server.script.pop(0) if self.server.script else "honest"
        if step.isdigit():
            return self._answer(int(step))
        if self.headers.get("If-None-Match") == "*" and self._key in self.server.objects:
            return self._answer(412)
        self.server.objects[self._key] = b"another writer's" if step == "lose-to-another" else data
        return self._answer(500 if step.startswith("lose") else 200)

    def do_GET(self) -> None:
        if self.server.script == ["dead"]:
            return self._answer(500)
        found = self.server.objects.get(self._key)
        return self._answer(404) if found is None else self._answer(200, found)

    do_HEAD = do_GET  # noqa: N815  # http.server looks for these names
    do_DELETE = do_GET  # noqa: N815

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Script]:
    server = _Script([])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    S3Server("", "a", "b").admit(monkeypatch)
    yield server
    server.shutdown()
    server.server_close()


def _store_of(server: _Script) -> ObjectStore:
    return open_store("s3://bucket/p", endpoint_url=f"http://127.0.0.1:{server.server_port}")


def test_a_store_that_answers_500_is_unavailable(scripted: _Script) -> None:
    class _Dead(list[str]):
        def pop(self, _: object = 0) -> str:
            return "500"

    scripted.script = _Dead(["dead"])
    store = _store_of(scripted)
    for attempt in (
        lambda: store.get("k"),
        lambda: store.put("k", b""),
        lambda: store.create("k", b""),
        lambda: store.exists("k"),
        lambda: list(store.list("")),
        lambda: store.delete("k"),
    ):
        with pytest.raises(Unavailable, match="check that the server is up"):
            attempt()


def test_a_created_object_whose_answer_was_lost_counts_as_created(scripted: _Script) -> None:
    scripted.script = ["lose"]
    _store_of(scripted).create("k", b"mine")
    assert scripted.objects["/bucket/p/k"] == b"mine"
    assert scripted.puts == 1


def test_after_a_lost_answer_another_writers_object_means_that_the_race_is_lost(
    scripted: _Script,
) -> None:
    scripted.script = ["lose-to-another"]
    with pytest.raises(AlreadyExists):
        _store_of(scripted).create("k", b"mine")


def test_a_conflict_between_conditional_writers_is_tried_again(scripted: _Script) -> None:
    scripted.script = ["409", "409"]
    _store_of(scripted).create("k", b"mine")
    assert scripted.puts == 3


def test_after_a_conflict_equal_bytes_of_another_writer_have_still_won(scripted: _Script) -> None:
    scripted.script = ["409"]
    scripted.objects["/bucket/p/k"] = b"mine"
    with pytest.raises(AlreadyExists):
        _store_of(scripted).create("k", b"mine")


def test_a_passing_failure_before_the_write_landed_is_tried_again(scripted: _Script) -> None:
    scripted.script = ["503"]
    _store_of(scripted).create("k", b"mine")
    assert scripted.objects["/bucket/p/k"] == b"mine"


def test_a_server_that_is_not_there_is_unavailable_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    S3Server("", "a", "b").admit(monkeypatch)
    store, began = (
        open_store("s3://bucket", endpoint_url=f"http://127.0.0.1:{free_port()}"),
        time.monotonic(),
    )
    with pytest.raises(Unavailable):
        store.create("k", b"")
    with pytest.raises(Unavailable):
        store.get("k")
    assert time.monotonic() - began < 15


def test_wrong_credentials_are_unavailable_and_the_message_says_so(
    radosgw: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = radosgw.new_bucket()
    S3Server(radosgw.endpoint, "nobody", "wrong").admit(monkeypatch)
    with pytest.raises(Unavailable, match="credentials"):
        open_store(f"s3://{bucket}", endpoint_url=radosgw.endpoint).get("k")


def test_a_missing_bucket_is_unavailable_and_the_message_says_so(
    radosgw: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    radosgw.admit(monkeypatch)
    with pytest.raises(Unavailable, match="create the bucket"):
        open_store("s3://no-such-bucket", endpoint_url=radosgw.endpoint).put("k", b"")
