"""What serving stacks write, read from a sample of each."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.errors import BadInput, NotFound
from infra.registry.registry import Registry
from tasks.records import Request
from tasks.specs.spec import Task
from tasks.traffic.formats import TrafficFormat
from tasks.traffic.imports import Accepted, Duplicate, judge_traces, stream
from tasks.traffic.rejects import Reject

SAMPLES = Path(__file__).parent / "samples"
ELEVEN = datetime(2026, 3, 1, 11, tzinfo=UTC)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXT, IMAGE, LANGUAGE = Task.TEXT_EMBEDDING, Task.IMAGE_CLASSIFICATION, Task.CAUSAL_LM


def read(
    path: Path, format: TrafficFormat | None, task: Task = TEXT, **more: Any
) -> tuple[dict[str, Request], list[str], int]:
    """Read requests by id, the reasons of rejects, and the number of duplicates."""
    found = list(stream(path, task=task, format=format, now=more.pop("now", NOON), **more))
    requests = {one.request.request_id: one.request for one in found if isinstance(one, Accepted)}
    reasons = [one.reason for one in found if isinstance(one, Reject)]
    return requests, reasons, sum(isinstance(one, Duplicate) for one in found)


# --- KServe


def test_files_of_kserves_bucket_writer_are_joined_over_a_folder() -> None:
    requests, reasons, _ = read(SAMPLES / "kserve-v1", TrafficFormat.KSERVE)
    assert reasons == []
    first, second = (requests[f"0009174a-24a8-4603-b098-09c8799950e9/{place}"] for place in (0, 1))
    assert (first.payload, first.decision, first.tenant) == (
        "how do I open a file",
        "allowed",
        "acme",
    )
    assert (second.payload, second.decision, second.time) == (
        "where is my order",
        "blocked",
        ELEVEN,
    )
    other = requests["1c6ae0b2-6c3b-4f0f-9f5e-1a2b3c4d5e6f"]
    assert (other.payload, other.language, other.decision) == ("bonjour", "fr", None)


def test_cloud_events_are_joined_whichever_came_first() -> None:
    requests, reasons, again = read(SAMPLES / "kserve-v2.jsonl", TrafficFormat.KSERVE)
    one = requests["a"]
    assert (one.payload, one.tenant, one.domain, one.language) == (
        "a question",
        "acme",
        "docs",
        "en",
    )
    assert (one.latency_ms, one.model_version, one.time) == (25.0, "3", ELEVEN)
    assert [requests[f"b/{place}"].payload for place in (0, 1)] == ["first", "second"]
    assert again == 2
    assert Counter(reasons) == {
        "another request has this id and other content": 1,
        "the model answered with an error": 1,
        "this request has no response with its id: import the files of both together": 1,
        "this response has no request with its id: import the files of both together": 1,
    }


def test_kserve_records_without_a_time_need_one(tmp_path: Path) -> None:
    sides = {"request": {"instances": [[[1.0, 2.0]]]}, "response": {"predictions": [3]}}
    events = [
        {"id": "x", "type": f"org.kubeflow.serving.inference.{side}", "data": data}
        for side, data in sides.items()
    ]
    path = tmp_path / "events.json"
    path.write_text(json.dumps(events))
    _, (reason,), _ = read(path, TrafficFormat.KSERVE, IMAGE, shape=(1, 2))
    assert "--first-at" in reason
    requests, _, _ = read(path, TrafficFormat.KSERVE, IMAGE, shape=(1, 2), first_at=ELEVEN)
    assert requests["x"].time == ELEVEN
    assert requests["x"].decision == "3"
    np.testing.assert_array_equal(requests["x"].payload, np.array([[1, 2]], np.float32))  # type: ignore[arg-type]


# --- Triton


def test_triton_tensors_become_requests_on_the_wall_clock() -> None:
    requests, reasons, _ = read(
        SAMPLES / "triton-tensors.json",
        TrafficFormat.TRITON,
        IMAGE,
        shape=(1, 2, 2),
        first_at=ELEVEN,
    )
    one = requests["cam-7"]
    assert (one.time, one.latency_ms, one.model_version) == (ELEVEN, 3.0, "2")
    np.testing.assert_array_equal(one.payload, np.array([[[0, 0.5], [1, 0.25]]], np.float32))  # type: ignore[arg-type]
    batch = [requests[f"trace-20260301T110100-2/{place}"] for place in (0, 1)]
    assert [float(np.max(row.payload)) for row in batch] == [1.0, 2.0]  # type: ignore[type-var]
    assert batch[0].time == ELEVEN + timedelta(minutes=1)
    assert len(requests) == 3  # the ensemble's own models are no requests
    assert reasons == ["the trace has no input tensor: trace with level=TENSORS too"]


def test_triton_text_with_bare_quotation_marks_is_read_from_a_file_that_is_still_written() -> None:
    requests, reasons, _ = read(SAMPLES / "triton-text.json", TrafficFormat.TRITON, first_at=ELEVEN)
    assert (requests["q1"].payload, reasons) == ('she said "hello", twice', [])


def triton_trace(id: int, seconds: int, data: str, **facts: Any) -> list[dict[str, Any]]:
    """Make one trace of a tensor [1, 1, 2]."""
    began = seconds * 10**9
    tensor = {"name": "x", "data": data, "shape": "1,1,2", "dtype": "FP32"}
    return [
        {"id": id, "model_name": "m", "model_version": 1, **facts},
        {"id": id, "timestamps": [{"name": "REQUEST_START", "ns": began}]},
        {"id": id, "activity": "TENSOR_QUEUE_INPUT", "tensor": tensor},
        {"id": id, "timestamps": [{"name": "REQUEST_END", "ns": began + 10**6}]},
    ]


def test_ids_that_begin_again_after_a_restart_are_other_requests(tmp_path: Path) -> None:
    runs = {
        "monday": triton_trace(1, 1000, "1,2") + triton_trace(2, 1001, "3,4"),
        "tuesday": triton_trace(1, 1600, "5,6") + triton_trace(3, 1602, "7,8"),
    }
    apart = tmp_path / "apart"
    apart.mkdir()
    for day, entries in runs.items():
        (apart / f"{day}.json").write_text(json.dumps(entries))
    (tmp_path / "appended.json").write_text(json.dumps(runs["monday"] + runs["tuesday"]))
    for path in (apart, tmp_path / "appended.json"):
        requests, reasons, _ = read(
            path, TrafficFormat.TRITON, IMAGE, shape=(1, 2), first_at=ELEVEN
        )
        assert reasons == []
        moments = {float(np.max(one.payload)): one.time for one in requests.values()}  # type: ignore[type-var]
        assert moments == {
            value: ELEVEN + timedelta(seconds=later)
            for value, later in ((2, 0), (4, 1), (6, 600), (8, 602))
        }


def test_a_file_of_triton_that_lies_there_twice_is_read_once(tmp_path: Path) -> None:
    for name in ("trace.json", "copy-of-trace.json"):
        (tmp_path / name).write_text(json.dumps(triton_trace(1, 1000, "1,2")))
    taken = list(
        stream(
            tmp_path,
            task=IMAGE,
            format=TrafficFormat.TRITON,
            shape=(1, 2),
            first_at=ELEVEN,
            now=NOON,
        )
    )
    names = [one.request.request_id for one in taken if isinstance(one, Accepted)]
    assert names == ["trace-20260301T110000-1"] * 2  # storing them, the second is a duplicate


def test_triton_without_the_time_of_the_first_trace_is_refused() -> None:
    with pytest.raises(BadInput, match="name no date: say when the first trace was taken"):
        read(SAMPLES / "triton-text.json", TrafficFormat.TRITON)


# --- chats


def test_batch_files_are_joined_and_a_conversation_ends_where_the_reply_begins() -> None:
    requests, reasons, _ = read(SAMPLES / "openai-batch", TrafficFormat.CHAT, LANGUAGE)
    one = requests["request-1"]
    assert (
        one.payload
        == "System: Be brief.\nUser: hi\nAssistant: hello\nUser: where am I?\nAssistant:"
    )
    assert (one.time, one.tenant, one.model_version) == (ELEVEN, "acme", "polyglot")
    assert [requests[f"request-3/{place}"].payload for place in (0, 1)] == ["one", "two"]
    assert Counter(reasons) == {
        "the server answered with status 429 or an error: nothing was served": 1,
        "turn 1 holds a part of type 'image_url': only text is read": 1,
        "this request has no response with its id: import the files of both together": 1,
        "this response has no request with its id: import the files of both together": 1,
    }


def test_whole_exchanges_need_no_partner_and_a_reply_at_the_end_is_left_out() -> None:
    requests, reasons, _ = read(SAMPLES / "openai-exchanges.jsonl", TrafficFormat.CHAT, LANGUAGE)
    assert {name: one.payload for name, one in requests.items()} == {
        "r1": "User: hi\nAssistant:",
        "r2": "User: hi\nAssistant:",
    }
    assert reasons == []


# --- MLflow, by the installed MLflow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Make a tracking database with four traces of the experiment "chat"."""
    import mlflow

    folder = tmp_path_factory.mktemp("traces")
    uri = f"sqlite:///{folder}/mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("chat", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("chat")

    @mlflow.trace
    def chat(messages: list[dict[str, str]]) -> str:
        mlflow.update_current_trace(
            tags={"tenant": "acme", "language": "en"}, client_request_id="mine"
        )
        return "hello"

    @mlflow.trace
    def embed(text: str) -> list[float]:
        return [0.1]

    @mlflow.trace
    def predict(instances: list[str]) -> list[int]:
        return [0, 0]

    @mlflow.trace
    def fail(text: str) -> None:
        raise ValueError(text)

    chat(messages=[{"role": "user", "content": "hi"}])
    embed(text="a question")
    predict(instances=["one", "two"])
    with pytest.raises(ValueError, match="broken"):
        fail(text="broken")
    mlflow.flush_trace_async_logging()
    mlflow.set_tracking_uri(before)
    return Registry(uri)


def check_traces(requests: list[Request], reasons: list[str]) -> None:
    chat = next(one for one in requests if one.request_id == "mine")
    assert (chat.payload, chat.tenant, chat.language) == ("User: hi\nAssistant:", "acme", "en")
    assert chat.latency_ms is not None
    assert {one.payload for one in requests} == {chat.payload, "a question", "one", "two"}
    assert reasons == ["the trace ended in the state ERROR: nothing was served"]


def test_exported_traces_are_read_from_lines_arrays_and_single_documents(
    server: Registry, tmp_path: Path
) -> None:
    traces = list(server.traces("chat"))
    forms = {
        "lines.jsonl": "\n".join(traces),
        "array.json": "[" + ",\n".join(traces) + "]",
        "row.json": "\n".join(json.dumps(json.loads(trace), indent=2) for trace in traces),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        requests, reasons, _ = read(tmp_path / name, TrafficFormat.TRACES, now=datetime.now(UTC))
        check_traces(list(requests.values()), reasons)


def test_traces_are_read_from_a_server_page_by_page(
    server: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.registry.traces.PAGE", 1)
    found = list(judge_traces(server.traces("chat"), task=TEXT))
    requests = [one.request for one in found if isinstance(one, Accepted)]
    check_traces(requests, [one.reason for one in found if isinstance(one, Reject)])
    with pytest.raises(NotFound, match="no experiment 'other'"):
        list(server.traces("other"))


# --- every format


@pytest.mark.parametrize(
    "format",
    [
        TrafficFormat.PARQUET,
        TrafficFormat.KSERVE,
        TrafficFormat.TRITON,
        TrafficFormat.CHAT,
        TrafficFormat.TRACES,
    ],
)
def test_what_is_no_such_file_is_refused_in_one_sentence(
    tmp_path: Path, format: TrafficFormat
) -> None:
    path = tmp_path / "in.bin"
    path.write_bytes(b"\x00\xff\xfe no traffic at all")
    with pytest.raises(BadInput, match=r"in\.bin is not .*write or fetch it again") as caught:
        read(path, format, first_at=ELEVEN)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_no_json_is_set_aside(tmp_path: Path) -> None:
    for format in (
        TrafficFormat.JSONL,
        TrafficFormat.CHAT,
        TrafficFormat.TRACES,
        TrafficFormat.KSERVE,
        TrafficFormat.TRITON,
    ):
        path = tmp_path / "in.jsonl"
        path.write_bytes(b"\x00\xff\xfe\n[1]\n")
        requests, reasons, _ = read(path, format, first_at=ELEVEN)
        assert (requests, len(reasons)) == ({}, 2)


def test_an_unknown_extension_asks_for_the_format(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text("[]")
    with pytest.raises(BadInput, match="--format, one of requant-parquet, jsonl, kserve"):
        read(path, None)


def test_an_empty_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a folder without files"):
        read(tmp_path, TrafficFormat.KSERVE)
    with pytest.raises(BadInput, match="cannot be read"):
        read(tmp_path / "none", TrafficFormat.KSERVE)


def test_letters_that_are_no_utf8_cost_their_own_record_only(tmp_path: Path) -> None:
    rows = [
        {
            "id": str(number),
            "time": "2026-03-01T11:00:00Z",
            "messages": [
                {"role": "user", "content": "caf?"},
                {"role": "assistant", "content": "x"},
            ],
        }
        for number in range(3)
    ]
    path = tmp_path / "chats.json"
    path.write_bytes(json.dumps(rows).encode().replace(b"caf?", b"caf\xe9", 1))
    requests, reasons, _ = read(path, TrafficFormat.CHAT)
    assert set(requests) == {"1", "2"}
    assert "half a surrogate pair" in reasons[0]


def test_an_array_that_breaks_off_gives_what_came_before_and_then_the_place(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    rows = [
        {
            "id": str(number),
            "time": "2026-03-01T11:00:00Z",
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}],
        }
        for number in range(3)
    ]
    path.write_text(json.dumps(rows)[:-20])
    found = stream(path, task=TEXT, format=TrafficFormat.CHAT, now=NOON)
    assert isinstance(next(found), Accepted)
    assert isinstance(next(found), Accepted)
    with pytest.raises(BadInput, match="is not whole JSON from letter"):
        next(found)
