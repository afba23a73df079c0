"""A graph is built once at registration: what parses and builds in no float is refused there."""

from __future__ import annotations

import subprocess
from subprocess import CompletedProcess

import numpy as np
import onnx
import pytest
from onnx import helper

from infra.engines import apart
from infra.engines.port import Profile, Shapes
from infra.errors import BadInput, Refused, Unavailable
from infra.settings import Settings, settings
from tasks.graphs.operators import require_buildable
from tests import graphs

pytest.importorskip("tensorrt_rtx")
RTX = "tensorrt-rtx"
PRODUCT = graphs.product(np.ones((8, 6), np.float32))
PROFILE: Profile = {"x": Shapes((1, 8), (4, 8), (16, 8))}


def attention() -> onnx.ModelProto:
    """Return an Attention of float32, which parses, and has no kernel but in FP16."""
    shape = ["batch", "tokens", 64]
    node = helper.make_node(
        "Attention", ["x", "k", "v"], ["y"], "attention", q_num_heads=4, kv_num_heads=4
    )
    inputs = dict.fromkeys(("x", "k", "v"), shape)
    return graphs.model([node], {}, inputs, {"y": shape}, opset=23)


def test_a_graph_that_builds_in_fp16_alone_is_taken(workspace: Settings) -> None:
    shapes = Shapes((1, 4, 64), (2, 8, 64), (4, 16, 64))
    profile = dict.fromkeys(("x", "k", "v"), shapes)
    with pytest.raises(Refused, match="could not build the engine"):
        apart.require_build(RTX, attention().SerializeToString(), profile)
    require_buildable(attention(), profile, (RTX,))


def test_products_of_float32_on_a_device_without_them_are_no_end(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUANT_TENSORRT_RTX_CAPABILITY", "SM75")
    settings.cache_clear()
    outcomes: list[str] = []

    def build(*asked: object) -> None:
        outcomes.append("refused")
        apart.require_build(*asked)  # type: ignore[arg-type]
        outcomes[-1] = "built"

    monkeypatch.setattr("tasks.graphs.operators.require_build", build)
    require_buildable(PRODUCT, PROFILE, (RTX,))
    assert outcomes == ["refused", "built"]  # in FP16


def test_what_builds_in_no_float_is_refused_in_the_builders_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise Refused("tensorrt-rtx could not build the engine: an operator")

    monkeypatch.setattr("tasks.graphs.operators.require_build", refuse)
    with pytest.raises(BadInput, match=r"source: tensorrt-rtx could not build .*: an operator"):
        require_buildable(PRODUCT, PROFILE, (RTX,))
    require_buildable(PRODUCT, PROFILE, ("onnxruntime-cpu",))


def test_the_same_question_is_asked_once(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(apart, "_answers", {})
    monkeypatch.setattr(apart, "_asked", lambda *question: asked.append(question))
    graph = PRODUCT.SerializeToString()
    for _ in range(2):
        apart.require_build(RTX, graph, PROFILE)
    monkeypatch.setenv("REQUANT_TENSORRT_RTX_CAPABILITY", "SM80")
    settings.cache_clear()
    apart.require_build(RTX, graph, PROFILE)
    assert len(asked) == 2


def ended(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    done = CompletedProcess([], status, stdout="", stderr="a line\nthe last line\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)


def test_a_builder_that_crashes_is_a_refusal_and_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended(monkeypatch, -11)
    with pytest.raises(Refused, match=r"its builder crashed \(SIGSEGV\)"):
        apart.require_build(RTX, b"", PROFILE)


def test_a_process_that_fails_otherwise_says_nothing_of_the_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended(monkeypatch, 1)
    with pytest.raises(Unavailable, match="the last line"):
        apart.require_build(RTX, b"", PROFILE)
