"""Every trouble has its status and one sentence; none tells of the inside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from flows.gateway.openai_api.routes import problem_of
from infra.errors import BadInput
from infra.gateway.application import CLIENT_LEFT, Gateway, problem, while_waited_for
from infra.gateway.batching import DynamicBatcher
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.wire.signature import GraphSignature, TensorSignature

SIGNATURE = GraphSignature(
    (TensorSignature("x", "FP32", (-1, 2)),), (TensorSignature("y", "FP32", (-1, 2)),), True
)
BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


class Engine:
    """Doubles x; sleeps for negative numbers, breaks at 13."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        values = feeds["x"]
        if (values == 13).any():
            raise RuntimeError("secret of the inside")
        if (values == 14).any():
            raise BadInput("the engine refused its inputs")
        time.sleep(max(0.0, -float(values.min())))
        return {"y": values * 2}


@dataclass(frozen=True, slots=True)
class Plain:
    """A front that passes tensors and keeps none."""

    takes_long: bool = False

    def feeds(self, tensors: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        return tensors

    def admit(self, tensors: Mapping[str, NDArray[Any]], tell: Any) -> None:
        pass

    def payloads(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        return None


def gateway(
    *, served: bool = True, most_waiting: int = 256, timeout_s: float = 5.0, body_s: float = 5.0
) -> Gateway:
    metrics = GatewayMetrics()
    batcher = DynamicBatcher("m", metrics, most_waiting=most_waiting)
    endpoint = Endpoint("m", batcher, metrics, timeout_s=timeout_s)
    if served:
        engine: Any = Engine()
        endpoint.publish(ServedRelease("m", "7", "d" * 64, "t", engine, SIGNATURE, Plain()))
    return Gateway({"m": endpoint}, metrics, "0", most_bytes=10_000, body_s=body_s)


def asked(
    chosen: Gateway,
    *bodies: Any,
    path: str = "/v2/models/m/infer",
    headers: Mapping[str, str] | None = None,
) -> list[httpx.Response]:
    """Send bodies at once."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(chosen.application(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            sent = [
                client.post(path, content=body, headers=headers)
                if isinstance(body, bytes)
                else client.post(path, json=body, headers=headers)
                for body in bodies
            ]
            return list(await asyncio.gather(*sent))

    return asyncio.run(send())


def of(*values: float) -> dict[str, Any]:
    entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": list(values)}
    return {"id": "mine", "inputs": [entry]}


NOTHING = {"inputs": [{"name": "x", "shape": [0, 2], "datatype": "FP32", "data": []}]}
DEEP = b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":%s"a"%s}]}' % (
    b"[" * 900,
    b"]" * 900,
)


def test_an_answer_names_the_request_the_version_and_the_release() -> None:
    (answer,) = asked(gateway(), of(1, 2))
    document = answer.json()
    assert document["outputs"] == [
        {"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [2.0, 4.0]}
    ]
    assert (document["id"], document["model_version"]) == ("mine", "7")
    assert document["parameters"] == {"release": "d" * 64, "tier": "routine"}


@pytest.mark.parametrize(
    ("chosen", "body", "path", "status", "sentence"),
    [
        ({}, b"{", "/v2/models/m/infer", 400, "not JSON"),
        ({}, of(14, 14), "/v2/models/m/infer", 400, "refused its inputs"),
        ({}, b"x" * 20_000, "/v2/models/m/infer", 413, "larger than 10000 bytes"),
        ({}, BODY, "/v2/models/n/infer", 404, "no model is called 'n' here: m"),
        ({}, BODY, "/v2/models/m/versions/8/infer", 404, "version 7 is"),
        ({}, BODY, "/v2/nowhere", 404, "there is no POST /v2/nowhere here"),
        ({"served": False}, BODY, "/v2/models/m/infer", 503, "no version is champion yet"),
        ({"timeout_s": 0.05}, of(-0.5, 0), "/v2/models/m/infer", 504, "within 0.05 s"),
        ({}, of(13, 0), "/v2/models/m/infer", 500, "the server failed: see its log"),
        ({}, NOTHING, "/v2/models/m/infer", 400, "the inputs have no row"),
        ({}, DEEP, "/v2/models/m/infer", 400, "more than 8 lists in each other"),
    ],
)
def test_every_trouble_has_its_status_and_a_sentence(
    chosen: dict[str, Any], body: Any, path: str, status: int, sentence: str
) -> None:
    (answer,) = asked(gateway(**chosen), body, path=path)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]
    assert "secret" not in answer.text


def test_a_full_queue_asks_to_come_again() -> None:
    answers = asked(gateway(most_waiting=2), *[of(-0.2, 0)] * 6)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) >= 2
    assert int(refused[0].headers["Retry-After"]) >= 1
    assert sum(answer.status_code == 200 for answer in answers) == 6 - len(refused)


def test_a_body_of_an_unknown_encoding_is_refused_and_a_bad_length_told() -> None:
    (compressed,) = asked(gateway(), b"x", headers={"Content-Encoding": "br"})
    assert "send it plain" in compressed.json()["error"]
    for length in ("-3", "9" * 5000):  # Python reads no number of so many digits
        (bad,) = asked(gateway(), b"x", headers={"Inference-Header-Content-Length": length})
        assert bad.status_code == 400
        assert "is a number of bytes" in bad.json()["error"]


def test_a_body_that_comes_too_slowly_is_told_and_the_connection_closed() -> None:
    async def drips() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(gateway(body_s=0.05).application())
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.post("/v2/models/m/infer", content=drips())

    answer = asyncio.run(send())
    assert (answer.status_code, answer.headers["connection"]) == (408, "close")
    assert "did not come within 0.05 s" in answer.json()["error"]


@pytest.mark.parametrize("tell", [problem, problem_of])
def test_what_nobody_waits_for_any_more_is_given_up(tell: Any) -> None:
    given_up = list[bool]()

    async def receive() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.disconnect"}

    async def works() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            given_up.append(True)

    async def asked_and_left() -> None:
        try:
            await while_waited_for(Request({"type": "http"}, receive), works())
        finally:
            await asyncio.sleep(0)  # what was cancelled ends

    with pytest.raises(ClientDisconnect) as left:
        asyncio.run(asked_and_left())
    assert given_up
    assert tell(left.value).status_code == CLIENT_LEFT


def test_ready_is_when_every_model_answers_and_metrics_count_it() -> None:
    async def get(chosen: Gateway, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(chosen.application())
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.get(path)

    assert asyncio.run(get(gateway(), "/v2/health/ready")).status_code == 200
    assert asyncio.run(get(gateway(served=False), "/v2/health/ready")).status_code == 503
    chosen = gateway()
    asked(chosen, of(1, 2), of(14, 14))
    text = asyncio.run(get(chosen, "/metrics")).text
    assert 'requant_gateway_requests_total{code="200",model="m"} 1.0' in text
    assert 'requant_gateway_requests_total{code="400",model="m"} 1.0' in text
    assert 'requant_gateway_version{model="m"} 7.0' in text


def test_a_batch_is_answered_row_by_row_and_one_bad_request_spoils_no_other() -> None:
    answers = asked(gateway(), *[of(n, -0.001) for n in range(20)])
    assert [answer.status_code for answer in answers[13:15]] == [500, 400]
    others = [n for n in range(20) if n not in (13, 14)]
    assert [answers[n].json()["outputs"][0]["data"][0] for n in others] == [2.0 * n for n in others]
