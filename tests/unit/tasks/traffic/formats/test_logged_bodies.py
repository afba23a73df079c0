"""Bodies as KServe's logger keeps them: JSON, OpenAI's, compressed, streamed, or with tensors."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.specs.spec import Task
from tasks.specs.tensors import RecordLayout, TensorLayout
from tasks.traffic.formats import TrafficFormat
from tests.unit.tasks.traffic.formats.reading import read, write_lines

KSERVE = TrafficFormat.KSERVE
IMAGE, TEXT = Task.IMAGE_CLASSIFICATION, Task.TEXT_EMBEDDING
ASKED = {"messages": [{"role": "user", "content": "hello"}], "user": "acme"}
ANSWERED = {"choices": [{"message": {"role": "assistant", "content": "hi"}}], "model": "llm"}
HEADER = "Inference-Header-Content-Length"


def event(side: str, body: bytes, kind: str = "application/json", **more: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "a",
        "type": f"org.kubeflow.serving.inference.{side}",
        "time": "2026-03-01T11:00:00Z",
        "datacontenttype": kind,
        "data_base64": base64.b64encode(body).decode(),
        **more,
    }


def events(path: Path, asked: bytes, answered: bytes, kind: str = "", **more: Any) -> Path:
    sides = [event("request", asked, **more), event("response", answered, kind or "text/plain")]
    return write_lines(path / "log.jsonl", sides)


def tensor(values: np.ndarray[Any, Any], datatype: str, raw: bytes | None = None) -> bytes:
    """Make a body with its one tensor behind the JSON."""
    raw = values.tobytes() if raw is None else raw
    entry = {
        "name": "x",
        "datatype": datatype,
        "shape": list(values.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    return json.dumps({"inputs": [entry]}).encode() + raw


def test_a_chat_is_read_whichever_way_it_was_answered(tmp_path: Path) -> None:
    streamed = b'data: {"model": "llm", "choices": []}\n\ndata: [DONE]\n\n'
    asked = json.dumps(ASKED).encode()
    for answer, kind in (
        (json.dumps(ANSWERED).encode(), "application/json"),
        (streamed, "text/event-stream"),
        (gzip.compress(json.dumps(ANSWERED).encode()), "application/json"),
    ):
        (request,), reasons, _ = read(events(tmp_path, asked, answer, kind), KSERVE)
        assert (request.payload, request.tenant) == ("User: hello\nAssistant:", "acme")
        assert (request.model_version, reasons) == ("llm", [])


def test_an_error_in_a_stream_is_an_error(tmp_path: Path) -> None:
    stream = b'data: {"error": {"message": "no"}}\n\n'
    path = events(tmp_path, json.dumps(ASKED).encode(), stream, "text/event-stream")
    assert read(path, KSERVE)[1] == ["the model answered with an error"]


def test_an_answer_in_text_is_an_error_of_the_server(tmp_path: Path) -> None:
    path = events(tmp_path, json.dumps(ASKED).encode(), b"Internal Server Error")
    requests, reasons, _ = read(path, KSERVE)
    assert requests == []
    assert reasons[0] == "its body is text where JSON belongs, as a server's error is"


@pytest.mark.parametrize(
    ("body", "task", "wanted"),
    [
        ({"instances": [{"b64": "aGVsbG8="}]}, TEXT, "hello"),
        (
            {
                "inputs": [
                    {
                        "name": "x",
                        "shape": [1],
                        "datatype": "BYTES",
                        "parameters": {"content_type": "base64"},
                        "data": ["aGVsbG8="],
                    }
                ]
            },
            TEXT,
            "hello",
        ),
        (
            {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "BOOL", "data": [True, False]}]},
            IMAGE,
            [1.0, 0.0],
        ),
        ({"input": ["hello"]}, TEXT, "hello"),
        ({"inputs": "hello", "parameters": {"truncate": True}}, TEXT, "hello"),
        ({"inputs": ["hello"]}, TEXT, "hello"),
        ({"inputs": {"text": ["hello"]}}, TEXT, "hello"),
        ({"text_input": "hello", "stream": False}, TEXT, "hello"),
        ({"dataframe_split": {"columns": ["text"], "data": [["hello"]]}}, TEXT, "hello"),
        ({"dataframe_records": [{"text": "hello", "n": 3}]}, TEXT, "hello"),
        ({"inputs": [[1.0, 0.0]]}, IMAGE, [1.0, 0.0]),
    ],
)
def test_inputs_are_decoded_as_their_senders_mean_them(
    tmp_path: Path, body: dict[str, Any], task: Task, wanted: object
) -> None:
    path = events(tmp_path, json.dumps(body).encode(), b"{}")
    shape = (2,) if task is IMAGE else None
    (request,), reasons, _ = read(path, KSERVE, task, shape=shape)
    assert reasons == []
    payload = request.payload
    assert (payload if isinstance(payload, str) else np.asarray(payload).tolist()) == wanted


@pytest.mark.parametrize("answer", [[[0.5, 0.25]], b"[[0.5, 0.25]]"])
def test_an_answer_of_values_alone_is_one(tmp_path: Path, answer: object) -> None:
    asked = {"instances": [{"text": "hello", "label": 0, "domain": 7}]}
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    (request,), reasons, _ = read(events(tmp_path, json.dumps(asked).encode(), data), KSERVE, TEXT)
    assert (request.label, request.domain, reasons) == ("0", "7", [])


def test_named_tensors_of_a_batch_are_a_record_each(tmp_path: Path) -> None:
    tensors = {
        "x": TensorLayout("float32", (2,), batched=True),
        "rate": TensorLayout("int64", (), batched=False),
    }
    layout = RecordLayout(tensors, {}, batch=None)
    body = {"inputs": {"x": [[1, 2], [3, 4]], "rate": 8}}
    path = events(tmp_path, json.dumps(body).encode(), b"{}")
    requests, reasons, _ = read(path, KSERVE, Task.CUSTOM, shape=layout)
    assert reasons == []
    assert [request.payload["x"].tolist() for request in requests] == [[1, 2], [3, 4]]
    assert [int(request.payload["rate"]) for request in requests] == [8, 8]


def test_events_in_binary_mode_lie_in_headers_beside_a_body(tmp_path: Path) -> None:
    documents = [
        {
            "headers": {
                "Ce-Id": "a",
                "Ce-Type": f"org.kubeflow.serving.inference.{side}",
                "Ce-Time": "2026-03-01T11:00:00Z",
                "Content-Type": "application/json",
            },
            "body": body,
        }
        for side, body in (("request", ASKED), ("response", json.dumps(ANSWERED)))
    ]
    (request,), reasons, _ = read(write_lines(tmp_path / "log.jsonl", documents), KSERVE)
    assert (request.request_id, request.payload, reasons) == ("a", "User: hello\nAssistant:", [])


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [("FP32", "<f4"), ("FP16", "<f2"), ("FP64", "<f8"), ("UINT8", "u1"), ("INT64", "<i8")],
)
def test_tensors_behind_the_json_are_read_in_every_datatype(
    tmp_path: Path, datatype: str, dtype: str
) -> None:
    values = np.arange(4).reshape(1, 2, 2).astype(dtype)
    body = tensor(values, datatype)
    length = {HEADER: [str(len(body) - values.nbytes)]}
    for headers in (length, {}):
        path = events(tmp_path, body, b"\x00\xff", "application/octet-stream", metadata=headers)
        (request,), reasons, _ = read(path, KSERVE, IMAGE, shape=(2, 2))
        assert reasons == []
        np.testing.assert_array_equal(np.asarray(request.payload), [[0, 1], [2, 3]])


def test_bf16_is_the_upper_half_of_a_float(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0]], "<f4")
    raw = (values.view("<u4") >> 16).astype("<u2").tobytes()
    path = events(tmp_path, tensor(values, "BF16", raw), b"{}")
    (request,), _, _ = read(path, KSERVE, IMAGE, shape=(2,))
    np.testing.assert_array_equal(np.asarray(request.payload), [1.5, -2.0])


def test_texts_behind_the_json_have_their_length_before_them(tmp_path: Path) -> None:
    words = [text.encode() for text in ("one", "zwölf")]
    raw = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    path = events(tmp_path, tensor(np.zeros(2), "BYTES", raw), b"{}")
    requests, _, _ = read(path, KSERVE, TEXT)
    assert [request.payload for request in requests] == ["one", "zwölf"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda body: body[:-1], "the input x has 15 bytes behind the JSON: 16 are announced"),
        (lambda body: body + b"x", "1 bytes behind the JSON belong to no input"),
        (lambda body: body.replace(b"FP32", b"FP64"), "has 16 bytes, but shape [1, 2, 2] of FP64"),
        (lambda body: body.replace(b"FP32", b"FP08"), "is of the datatype FP08"),
        (lambda _: b"\x00\x01", "its body does not begin with JSON"),
        (lambda _: b"", "its body is empty"),
    ],
)
def test_a_body_that_is_not_what_it_announces_is_refused_in_one_sentence(
    tmp_path: Path, change: Any, sentence: str
) -> None:
    body = tensor(np.zeros((1, 2, 2), "<f4"), "FP32")
    requests, reasons, _ = read(events(tmp_path, change(body), b"{}"), KSERVE, IMAGE, shape=(2, 2))
    assert requests == []
    assert sentence in reasons[0]
