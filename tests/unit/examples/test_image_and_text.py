"""Two models share one budget: what is late is given up, what is in time is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from examples.image_and_text.together import AskedModel, BothAnswers, ImageAndText
from infra.gateway.application import Gateway
from infra.gateway.batching import DynamicBatcher
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.wire.signature import GraphSignature, TensorSignature
from tests.unit.infra.gateway.test_application import Engine, Plain

IMAGE = np.ones((1, 2), np.float32)


@dataclass(frozen=True, slots=True)
class Lengths(Plain):
    """A front of texts: each becomes its length, twice."""

    def feeds(self, tensors: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        (texts,) = tensors.values()
        return {"x": np.array([[len(text)] * 2 for text in texts], np.float32)}


def served() -> Gateway:
    metrics, endpoints = GatewayMetrics(), {}
    signature = GraphSignature(
        (TensorSignature("x", "FP32", (-1, 2)),), (TensorSignature("y", "FP32", (-1, 2)),), True
    )
    for name, front in (("image", Plain()), ("text", Lengths())):
        engine: Any = Engine()
        endpoint = Endpoint(name, DynamicBatcher(name, metrics), metrics)
        endpoint.publish(ServedRelease(name, "1", "d" * 64, "t", engine, signature, front))
        endpoints[name] = endpoint
    return Gateway(endpoints, metrics, "0")


def ask(image: NDArray[np.float32], text: str, budget_s: float) -> BothAnswers:
    async def asked() -> BothAnswers:
        transport = httpx.ASGITransport(served().application())
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            both = ImageAndText(client, AskedModel("image", "x"), AskedModel("text", "x"), budget_s)
            return await both.ask(image, text)

    return asyncio.run(asked())


def test_both_answers_come_within_the_budget() -> None:
    answers = ask(IMAGE, "four", 30.0)
    assert answers.complete
    assert np.array_equal(answers.image, IMAGE * 2)
    assert np.array_equal(answers.text, [[8.0, 8.0]])


def test_a_late_answer_is_given_up_and_the_other_is_kept() -> None:
    answers = ask(IMAGE * -4.0, "four", 1.5)  # the engine sleeps four seconds over it
    assert answers.image is None
    assert answers.text is not None
    assert answers.seconds < 3.5


def test_a_refusal_is_raised() -> None:
    with pytest.raises(httpx.HTTPStatusError):
        ask(np.ones((1, 3), np.float32), "four", 30.0)
