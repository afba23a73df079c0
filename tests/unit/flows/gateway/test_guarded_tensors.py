"""Texts that are sent to be read: judged, and counted, by the tier that is to answer them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from flows.gateway.fronts import MOST_CHARACTERS, TextFront
from flows.gateway.guards import BlockedText, Guards, TextGuard
from infra.errors import BadInput
from infra.gateway.batching import DynamicBatcher
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.steering.destination import Asking, Steering
from infra.gateway.steering.router import Tier
from infra.gateway.wire.signature import GraphSignature, TensorSignature
from tasks.models.inputs import TextInputs
from tests.language_folders import tokenizer

INPUTS = TextInputs(tokenizer().to_str().encode(), 16)
READ = tuple(TensorSignature(name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask"))
TEXTS = {"text": np.asarray(["calm", "strike"], object)}


class Ones:
    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        return {"y": np.ones((len(feeds["input_ids"]), 1), np.float32)}


def release(version: str, *blocked: str) -> ServedRelease:
    engine: Any = Ones()
    guards = Guards([TextGuard("harm", "input", "No.", lambda text: text in blocked)])
    front = TextFront(INPUTS, guards)
    return ServedRelease(
        "m", version, version * 64, "t", engine, GraphSignature(READ, (), True), front
    )


def test_texts_whose_reading_would_keep_others_waiting_are_refused() -> None:
    metrics = GatewayMetrics()
    endpoint = Endpoint("m", DynamicBatcher("m", metrics), metrics, release=release("1"))
    half = "word " * (MOST_CHARACTERS // 10)
    long = {"text": np.asarray([half, half, "!"], object)}
    with pytest.raises(BadInput, match=r"200001 characters were sent: send 200000 at most"):
        asyncio.run(endpoint.infer(long, Asking({})))


def test_the_tier_that_is_asked_decides_and_both_tiers_are_counted() -> None:
    metrics = GatewayMetrics()
    steering = Steering(higher=release("2", "strike"))
    endpoint = Endpoint(
        "m", DynamicBatcher("m", metrics), metrics, release=release("1"), steering=steering
    )
    asyncio.run(endpoint.infer(TEXTS, Asking({}, Tier.ROUTINE)))
    with pytest.raises(BlockedText, match="the guard harm"):
        asyncio.run(endpoint.infer(TEXTS, Asking({}, Tier.HIGHER)))

    def counted(tier: str, by: str) -> bytes:
        labels = f'blocked_by="{by}",model="m",on="input",tier="{tier}"'
        line = f"requant_gateway_guarded_texts_total{{{labels}}}".encode()
        lines = metrics.exposition().splitlines()
        return next((each.split()[-1] for each in lines if each.startswith(line)), b"0")

    assert counted("routine", "") == b"2.0"
    assert (counted("higher", ""), counted("higher", "harm")) == (b"1.0", b"1.0")
