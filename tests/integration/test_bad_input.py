"""Whatever is wrong gets one clear sentence and exit code 2; the champion keeps serving."""

import http.server
import json
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.settings import Settings, use_workspace
from tests.integration.conftest import EXAMPLES, images, serve

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Said:
    """What one command said."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture(scope="module")
def served(loop: Settings, prefect_server: tuple[str, str]) -> Settings:
    """Promote a champion in a workspace."""
    from flows.maintenance import maintenance
    from tasks.models.catalog import register

    os.environ["REQUANT_PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"] = prefect_server
    register(EXAMPLES / "digits" / "model.yaml")
    serve(loop, "digits", 0, images(0.5, 1.0))
    assert maintenance("digits").status == "promoted"
    return loop


@pytest.fixture
def run(
    served: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Call the command in this process; afterwards the champion must be the one before."""
    from flows.cli import main
    from tasks.promotion.history import champion_of

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["requant", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    before = champion_of("digits")
    yield call
    monkeypatch.undo()
    use_workspace(served.root)
    assert champion_of("digits") == before
    assert served.registry().aliases("digits")["champion"] == (before.version if before else None)


def expect_refusal(said: Said, *words: str) -> None:
    """Exit code 2, one sentence on standard error that holds the words, and no traceback."""
    assert said.code == 2, said
    lines = [line for line in said.err.splitlines() if line.startswith("requant: ")]
    assert len(lines) == 1, said
    assert "Traceback" not in said.err
    for word in words:
        assert word in lines[0], lines[0]


def test_an_unknown_model_is_named_with_the_known_ones(run: Run) -> None:
    expect_refusal(run("maintain", "nope"), "nope", "digits", "requant model add")


def test_a_missing_traffic_file(run: Run, tmp_path: Path) -> None:
    expect_refusal(
        run("traffic", "import", str(tmp_path / "none.parquet"), "--model", "digits"),
        "none.parquet",
    )


def test_a_truncated_parquet_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "cut.parquet"
    path.write_bytes((EXAMPLES / "digits" / "traffic.parquet").read_bytes()[:2000])
    expect_refusal(run("traffic", "import", str(path), "--model", "digits"), "cut.parquet")


def test_wrong_column_types(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "types.parquet"
    pq.write_table(pa.table({"request_id": [True, False], "time": ["a", "b"]}), path)
    expect_refusal(run("traffic", "import", str(path), "--model", "digits"), "types.parquet")


def test_bad_records_are_set_aside_with_reasons_and_the_good_ones_kept(
    run: Run, served: Settings, tmp_path: Path
) -> None:
    good = {
        "request_id": "g",
        "time": "2025-01-01T00:00:00Z",
        "tensor": images(1.0)[0].payload.tolist(),
    }  # type: ignore[union-attr]
    wrong_shape = {**good, "request_id": "w", "tensor": [1.0, 2.0]}
    nan = {**good, "request_id": "n", "tensor": [[[float("nan")] * 8] * 8]}
    lines = [json.dumps(one).encode() for one in (good, wrong_shape, nan)]
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(
        b"\n".join([*lines, b"\xff\xfe not utf-8", b"{not json", b'{"request_id": "x"}']) + b"\n"
    )
    said = run("traffic", "import", str(path), "--model", "digits", "--json")
    assert said.code == 0, said
    taken = json.loads(said.out)
    assert (taken["accepted"], taken["rejected"]) == (1, 5)
    kept = [
        line for key in taken["rejects"] for line in served.store().get(key).decode().splitlines()
    ]
    assert len(kept) == 5
    assert all(json.loads(line)["reason"] for line in kept)


def test_a_spec_with_an_unknown_field(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(
        (EXAMPLES / "digits" / "model.yaml").read_text().replace("  size_ratio", "  sizes")
    )
    expect_refusal(run("model", "add", str(path)), "budgets.sizes", "size_ratio")


def test_a_golden_set_that_overlaps_the_calibration_pool(run: Run, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "digits", tmp_path / "digits")
    golden = pq.read_table(tmp_path / "digits" / "golden.parquet").to_pylist()
    pool = pq.read_table(tmp_path / "digits" / "calibration.parquet")
    stolen = {name: golden[0].get(name) for name in pool.column_names} | {"id": "stolen"}
    table = pa.Table.from_pylist([*pool.to_pylist(), stolen], schema=pool.schema)
    pq.write_table(table, tmp_path / "digits" / "calibration.parquet")
    expect_refusal(
        run("model", "add", str(tmp_path / "digits" / "model.yaml")), "overlaps", "stolen"
    )


def test_an_unknown_recipe(run: Run) -> None:
    expect_refusal(run("requantize", "digits", "--recipe", "int1"), "int1", "int8-smooth")


def test_too_few_rows_in_the_window_are_inconclusive_and_nothing_is_built(
    run: Run, served: Settings
) -> None:
    serve(served, "digits", 20, images(1.0, seed=20)[:10])
    said = run("maintain", "digits", "--json")
    assert said.code == 0, said
    outcome = json.loads(said.out)
    assert outcome["status"] == "inconclusive"
    assert not outcome["candidates"]


def test_an_engine_file_with_a_flipped_byte_is_not_loaded(run: Run, served: Settings) -> None:
    from tasks.promotion.history import champion_of

    champion = champion_of("digits")
    assert champion is not None
    key = f"releases/digits/{champion.digest}/engines/onnxruntime-cpu/plan"
    plan = served.store().get(key)
    served.store().put(key, plan[:100] + bytes([plan[100] ^ 1]) + plan[101:])
    try:
        serve(served, "digits", 21, images(0.5, 1.0, seed=21))
        expect_refusal(run("maintain", "digits"), "engines/onnxruntime-cpu/plan", "digest")
    finally:
        served.store().put(key, plan)


def test_a_store_that_answers_500(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with _answering(500) as address:
        monkeypatch.setenv("REQUANT_STORE_URL", "s3://bucket/prefix")
        monkeypatch.setenv("REQUANT_S3_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        expect_refusal(run("status", "digits"), "bucket")


def test_mlflow_that_does_not_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUANT_MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    expect_refusal(run("reconcile", "digits"), "127.0.0.1:9")


def test_prefect_that_does_not_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUANT_PREFECT_API_URL", "http://127.0.0.1:9/api")
    expect_refusal(run("maintain", "digits"), "127.0.0.1:9", "REQUANT_PREFECT_API_URL")


def test_a_full_disk_leaves_nothing_half_written(
    run: Run, served: Settings, tmp_path: Path
) -> None:
    """Let a file-size limit stand in for the full disk: the kernel refuses the write there too."""
    path = tmp_path / "many.jsonl"
    rows = [
        {"request_id": f"m{i}", "time": "2025-02-01T00:00:00Z", "tensor": one.payload.tolist()}  # type: ignore[union-attr]
        for i, one in enumerate(images(1.0, seed=30))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = set(served.store().list(""))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        said = run("traffic", "import", str(path), "--model", "digits")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    expect_refusal(said, "free space")
    assert set(served.store().list("")) == before


class _Failing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(500)
        self.end_headers()

    do_PUT = do_HEAD = do_POST = do_GET  # noqa: N815  # the base class's names

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


class _answering:  # noqa: N801  # used like a function
    """A server on 127.0.0.1 that answers every request with one status."""

    def __init__(self, status: int) -> None:
        assert status == 500
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Failing)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
