"""The gRPC side, by Triton's own client and messages, and by bytes that are no messages."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from infra.errors import BadInput
from infra.gateway.application import Gateway
from infra.gateway.over_grpc.messages import SERVICE, message
from infra.gateway.over_grpc.server import GrpcServer
from infra.gateway.over_grpc.tensors import tensors_of
from infra.gateway.wire.datatypes import LITTLE_ENDIAN
from tests.unit.infra.gateway.test_application import asked, gateway

KEY = "k" * 64
HEADERS = {"authorization": f"Bearer {KEY}"}


@dataclass(frozen=True, slots=True)
class Listening:
    address: str
    client: triton.InferenceServerClient
    gateway: Gateway

    def counted(self, code: int) -> float:
        """Return how many requests of the model were answered so."""
        answer = asyncio.run(got(self.gateway, "/metrics"))
        line = f'requant_gateway_requests_total{{code="{code}",model="m"}} '
        lines = answer.text.splitlines()
        return next((float(item.removeprefix(line)) for item in lines if line in item), 0.0)


@pytest.fixture(scope="module")
def listening() -> Iterator[Listening]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def done(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(20)

    chosen = gateway()

    async def begun() -> tuple[GrpcServer, int]:
        server = GrpcServer(chosen, KEY, "0", head_s=0.5, body_s=0.5)
        return server, await server.start(0)

    server, port = done(begun())
    address = f"127.0.0.1:{port}"
    client = triton.InferenceServerClient(address)
    yield Listening(address, client, chosen)
    client.close()
    done(server.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def tensor(values: np.ndarray[Any, Any], name: str = "x") -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), "FP32")
    made.set_data_from_numpy(values)
    return made


async def got(chosen: Gateway, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(chosen.application())
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.get(path)


def raw(listening: Listening, call: str, data: bytes) -> grpc.StatusCode:
    with grpc.insecure_channel(listening.address) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/{call}")
        try:
            ask(data, metadata=tuple(HEADERS.items()), timeout=20)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def test_our_messages_are_sent_as_tritons_are() -> None:
    for name in ("ModelInferRequest", "ModelInferResponse", "ModelMetadataResponse"):
        ours, theirs = message(name).DESCRIPTOR, getattr(service_pb2, name).DESCRIPTOR
        known = {field.name: field.number for field in theirs.fields}
        sent = {field.name: field.number for field in ours.fields}
        assert sent.items() <= known.items()


def test_tritons_client_is_answered(listening: Listening) -> None:
    client = listening.client
    assert client.is_server_live(headers=HEADERS)
    assert client.is_server_ready(headers=HEADERS)
    assert client.is_model_ready("m", headers=HEADERS)
    assert client.get_model_metadata("m", headers=HEADERS).inputs[0].name == "x"
    values = np.array([[1, 2], [3, 4]], np.float32)
    answer = client.infer("m", [tensor(values)], request_id="mine", headers=HEADERS)
    assert np.array_equal(answer.as_numpy("y"), values * 2)
    response = answer.get_response()
    assert (response.id, response.model_version) == ("mine", "7")
    assert response.parameters["tier"].string_param == "routine"


def test_contents_that_are_typed_are_read_too(listening: Listening) -> None:
    request = service_pb2.ModelInferRequest(model_name="m")
    made = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    made.contents.fp32_contents.extend([1.0, 2.0])
    assert raw(listening, "ModelInfer", request.SerializeToString()) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("name", "shape", "model", "sentence", "code"),
    [
        ("x", (1, 3), "m", "has shape [1, 3]", "INVALID_ARGUMENT"),
        ("z", (1, 2), "m", "the model reads x", "INVALID_ARGUMENT"),
        ("x", (1, 2), "n", "no model is called 'n'", "NOT_FOUND"),
    ],
)
def test_what_cannot_be_answered_has_its_code_and_a_sentence(
    listening: Listening, name: str, shape: tuple[int, int], model: str, sentence: str, code: str
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        listening.client.infer(model, [tensor(np.zeros(shape, np.float32), name)], headers=HEADERS)
    assert sentence in str(refused.value)
    assert code in str(refused.value.status())


def test_an_engine_that_breaks_tells_nothing_of_the_inside(listening: Listening) -> None:
    with pytest.raises(InferenceServerException) as refused:
        listening.client.infer("m", [tensor(np.full((1, 2), 13, np.float32))], headers=HEADERS)
    assert "secret" not in str(refused.value)
    assert "INTERNAL" in str(refused.value.status())


def test_nobody_without_the_key_is_answered(listening: Listening) -> None:
    with pytest.raises(InferenceServerException) as refused:
        listening.client.get_model_metadata("m")
    assert "UNAUTHENTICATED" in str(refused.value.status())


def described(**changes: Any) -> dict[str, Any]:
    """Return a request as both protocols have it, with changes to its only input."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **changes}
    return {"inputs": [tensor]}


def note(entries: Any, parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        setattr(entries[name], "string_param" if isinstance(value, str) else "int64_param", value)


def call_of(document: dict[str, Any]) -> bytes:
    """Return the message that says what a body of JSON does."""
    request = service_pb2.ModelInferRequest(model_name="m")
    note(request.parameters, document.get("parameters", {}))
    for item in document["inputs"]:
        made = request.inputs.add(**{key: item[key] for key in ("name", "datatype", "shape")})
        note(made.parameters, item.get("parameters", {}))
        getattr(made.contents, FIELDS[item["datatype"]]).extend(item["data"])
    for item in document.get("outputs", []):
        note(request.outputs.add(name=item["name"]).parameters, item.get("parameters", {}))
    return bytes(request.SerializeToString())


FIELDS = {"INT64": "int64_contents", "FP32": "fp32_contents", "BOOL": "bool_contents"}


@pytest.mark.parametrize(
    "document",
    [
        described(shape=[2, 2]),
        described(shape=[2, 1]),
        described(shape=[-1, 2]),
        described(shape=[0, 2], data=[]),
        described(shape=[1] * 9, data=[1]),
        described(name="z"),
        described(datatype="INT64"),
        described(datatype="BOOL", data=[True, False]),
        {"inputs": []},
        {"inputs": described()["inputs"] * 2},
        {**described(), "outputs": [{"name": "z"}]},
        {**described(), "outputs": [{"name": "y", "parameters": {"classification": 1}}]},
        described(parameters={"shared_memory_region": 1}),
        {**described(), "parameters": {"sequence_id": 7}},
        {**described(), "parameters": {"tier": "lower"}},
        {**described(), "parameters": {"tier": 3}},
        {**described(), "parameters": {"tenant": "t" * 300}},
    ],
)
def test_http_and_grpc_refuse_the_same_in_the_same_words(
    listening: Listening, document: dict[str, Any]
) -> None:
    (answer,) = asked(listening.gateway, document)
    assert answer.status_code == 400
    with grpc.insecure_channel(listening.address) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as refused:
            ask(call_of(document), metadata=tuple(HEADERS.items()), timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == answer.json()["error"]


@pytest.mark.parametrize(
    ("messages", "code", "sentence"),
    [
        (0, grpc.StatusCode.INVALID_ARGUMENT, "has no message"),
        (2, grpc.StatusCode.INVALID_ARGUMENT, "has two messages"),
        (None, grpc.StatusCode.DEADLINE_EXCEEDED, "did not come within 0.5 s"),
    ],
)
def test_a_call_without_its_one_message_is_told_and_holds_nothing(
    listening: Listening, messages: int | None, code: grpc.StatusCode, sentence: str
) -> None:
    ended = threading.Event()

    def sent() -> Iterator[bytes]:
        yield from [b""] * (messages or 0)
        if messages is None:
            ended.wait(10)

    with grpc.insecure_channel(listening.address) as channel:
        ask = channel.stream_unary(f"/{SERVICE}/ServerLive")
        with pytest.raises(grpc.RpcError) as refused:
            ask(sent(), metadata=tuple(HEADERS.items()), timeout=9)
        ended.set()
    assert (refused.value.code(), sentence in refused.value.details()) == (code, True)


@pytest.mark.parametrize(
    "sent", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_a_connection_that_speaks_no_http2_is_let_go(listening: Listening, sent: bytes) -> None:
    host, _, port = listening.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(sent)
        said = [*iter(lambda: client.recv(1000), b"")]  # its settings and good-bye, then the end
    assert not b"".join(said).startswith(b"HTTP")
    assert listening.client.is_server_live(headers=HEADERS)


def test_what_a_caller_gave_up_is_run_no_further_and_counted(listening: Listening) -> None:
    before = listening.counted(499)
    rows = np.full((64, 2), -0.5, np.float32)  # four runs, each of which sleeps
    with pytest.raises(InferenceServerException) as left:
        listening.client.infer("m", [tensor(rows)], headers=HEADERS, client_timeout=0.1)
    assert "DEADLINE_EXCEEDED" in str(left.value.status())
    began = time.monotonic()
    listening.client.infer("m", [tensor(np.ones((1, 2), np.float32))], headers=HEADERS)
    assert time.monotonic() - began < 1.5  # the run that was at work, and none behind it
    assert listening.counted(499) == before + 1


def test_a_call_keeps_its_request_id(listening: Listening) -> None:
    with grpc.insecure_channel(listening.address) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ServerLive")
        for given, kept in (("mine-7", True), ("no id at all", False)):
            metadata = (*HEADERS.items(), ("x-request-id", given))
            _, call = ask.with_call(b"", metadata=metadata, timeout=20)
            assert (dict(call.trailing_metadata())["x-request-id"] == given) is kept


def test_elements_come_once(listening: Listening) -> None:
    request = service_pb2.ModelInferRequest(model_name="m")
    made = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    made.contents.fp32_contents.extend([1.0, 2.0])
    request.raw_input_contents.append(bytes(8))
    code = raw(listening, "ModelInfer", request.SerializeToString())
    assert code is grpc.StatusCode.INVALID_ARGUMENT


@given(st.binary(max_size=60))
def test_bytes_that_are_no_request_are_the_callers_fault(listening: Listening, data: bytes) -> None:
    code = raw(listening, "ModelInfer", data)
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


FITTING = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=5),
}
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, -1, 2**31 - 1, 2**31]), max_size=9)


@given(
    st.sampled_from([*LITTLE_ENDIAN, "BYTES", "", "FP8"]),
    SHAPES,
    st.sampled_from(sorted(FITTING)),
    st.data(),
)
def test_a_tensor_of_any_datatype_shape_and_contents_is_read_or_told(
    datatype: str, shape: list[int], field: str, data: st.DataObject
) -> None:
    tensor = message("InferTensor")(name="x", datatype=datatype, shape=shape)
    getattr(tensor.contents, field).extend(data.draw(st.lists(FITTING[field], max_size=6)))
    raw = data.draw(st.lists(st.binary(max_size=24), max_size=2))
    request = message("ModelInferRequest")(inputs=[tensor], raw_input_contents=raw)
    with suppress(BadInput):
        (values,) = tensors_of(request).values()
        assert list(values.shape) == shape
