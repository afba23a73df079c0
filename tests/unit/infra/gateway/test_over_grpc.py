"""The gRPC side, by Triton's own client and messages, and by bytes that are no messages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from infra.errors import BadInput
from infra.gateway.over_grpc.messages import SERVICE, message
from infra.gateway.over_grpc.server import GrpcServer
from infra.gateway.over_grpc.tensors import tensors_of
from infra.gateway.wire.datatypes import LITTLE_ENDIAN
from tests.unit.infra.gateway.test_application import gateway

KEY = "k" * 64
HEADERS = {"authorization": f"Bearer {KEY}"}


@dataclass(frozen=True, slots=True)
class Listening:
    address: str
    client: triton.InferenceServerClient


@pytest.fixture(scope="module")
def listening() -> Iterator[Listening]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def done(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(20)

    async def begun() -> tuple[GrpcServer, int]:
        server = GrpcServer(gateway(), KEY, "0")
        return server, await server.start(0)

    server, port = done(begun())
    address = f"127.0.0.1:{port}"
    client = triton.InferenceServerClient(address)
    yield Listening(address, client)
    client.close()
    done(server.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def tensor(values: np.ndarray[Any, Any], name: str = "x") -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), "FP32")
    made.set_data_from_numpy(values)
    return made


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
