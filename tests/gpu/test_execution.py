"""Real TensorRT engines on a real device: precision, timing, caches, metadata, observation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu.devices import why_not

graphs: Any = pytest.importorskip("tests.graphs", reason="ONNX Runtime is not installed")

WEIGHT = np.random.default_rng(0).standard_normal((256, 192)).astype(np.float32)
X = np.random.default_rng(1).uniform(-2, 2, (32, 16, 256)).astype(np.float32)


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def target(request: pytest.FixtureRequest) -> Any:
    reason = why_not(request.param)
    if reason is not None:
        pytest.skip(reason)
    from infra.engines import open_target

    return open_target(request.param)


def profile() -> Any:
    from infra.engines.port import Shapes

    return {"x": Shapes((1, 16, 256), (8, 16, 256), (32, 16, 256))}


def quantized(plain: Any) -> bytes:
    from tasks.graphs.sites import find_sites
    from tasks.numerics.quantizer import Quantizer
    from tasks.quantization.graph import qdq
    from tests.plans import from_scales

    sites = find_sites(plain)
    graph = qdq.write(from_scales(plain, sites, {site.name: Quantizer(2.0) for site in sites}))
    return bytes(graph.SerializeToString())


@pytest.fixture
def plain() -> Any:
    return graphs.product(WEIGHT, tokens=True)


def test_an_int8_engine_runs_like_full_precision_and_in_int8(target: Any, plain: Any) -> None:
    import onnx

    from tasks.graphs.sites import find_sites
    from tasks.records import Verdict
    from tasks.validation.precision import asked_for, precision_gate

    made = target.build(quantized(plain), profile())
    engine = target.load(made.plan, made.metadata)
    exact, found = graphs.run(plain, X), engine.run({"x": X})["y"]
    assert np.linalg.norm(found - exact) < 0.02 * np.linalg.norm(exact)
    inspection = engine.inspection()
    assert json.loads(inspection)["Layers"]
    asked = asked_for(onnx.load_from_string(quantized(plain)), find_sites(plain))
    gate = precision_gate(asked, target.kernels(made.layers, inspection), "")[0]
    print(gate.reason)
    assert gate.verdict is Verdict.PASSED


def test_tensors_on_the_device_give_what_arrays_give(target: Any, plain: Any) -> None:
    import torch

    made = target.build(quantized(plain), profile())
    engine = target.load(made.plan, made.metadata)
    found = engine.run_on_device({"x": torch.from_numpy(X).cuda()})["y"]
    assert found.is_cuda
    assert np.array_equal(found.cpu().numpy(), engine.run({"x": X})["y"])


def test_runs_are_timed_by_events(target: Any, plain: Any) -> None:
    made = target.build(quantized(plain), profile())
    taken = target.load(made.plan, made.metadata).time_runs({"x": X}, 20)
    print(f"{target.name}: median {np.median(taken):.4f} ms")
    assert (taken > 0).all()


def test_full_precision_is_observed_on_the_device_as_on_the_cpu(target: Any) -> None:
    from infra.engines import open_target
    from infra.engines.port import DeviceEngine, Shapes
    from tasks.graphs.sites import expose, find_sites
    from tasks.observation.observer import Observer
    from tasks.observation.watch import engine_tensors
    from tests.observation_tolerance import why_apart

    plain = graphs.product(WEIGHT, tokens=True)
    sites = find_sites(plain)
    exposed = expose(plain, sites).SerializeToString()
    shapes = {"x": Shapes((1, 16, 256), (8, 16, 256), (32, 16, 256))}
    seen = []
    for opened in (open_target("onnxruntime-cpu"), target):
        engine = opened.load_exact(exposed, shapes)
        assert isinstance(engine, DeviceEngine) is (opened is target)
        observer = Observer(sites)
        observer.update(engine_tensors(engine, {"x": X}), np.arange(len(X)))
        seen.append(observer.result())
    assert why_apart(*seen) is None


def test_a_warm_timing_cache_builds_the_same_plan_faster(plain: Any, tmp_path: Path) -> None:
    reason = why_not("tensorrt")
    if reason is not None:
        pytest.skip(reason)
    from importlib import import_module

    from infra.engines.nvidia.metadata import parse_metadata
    from infra.engines.nvidia.target import TensorRt
    from infra.stores import open_store

    store = open_store(str(tmp_path))
    seconds = []
    for _ in range(2):
        target = TensorRt("tensorrt", import_module("tensorrt"), ahead_of_time=False, store=store)
        told = parse_metadata(target.build(quantized(plain), profile()).metadata or b"")
        assert told.diagnostics == ()
        seconds.append(told.build_seconds)
    keys = list(store.list("timing-caches/"))
    print(f"cold {seconds[0]} s, warm {seconds[1]} s, kept in {keys}")
    assert len(keys) == 1
    assert seconds[1] <= seconds[0]
    store.put(keys[0], b"damaged")
    target = TensorRt("tensorrt", import_module("tensorrt"), ahead_of_time=False, store=store)
    assert (
        "is damaged"
        in parse_metadata(target.build(quantized(plain), profile()).metadata or b"").diagnostics[0]
    )


@pytest.mark.parametrize(
    "options", [{"version_compatible": True}, {"hardware": "ampere-plus"}, {"max_aux_streams": 0}]
)
def test_plans_with_each_option_are_built_and_run(plain: Any, options: dict[str, Any]) -> None:
    reason = why_not("tensorrt")
    if reason is not None:
        pytest.skip(reason)
    from importlib import import_module

    from infra.engine_options.building import BuildOptions, HardwareCompatibility
    from infra.engines.nvidia.target import TensorRt

    if "hardware" in options:
        options = {"hardware": HardwareCompatibility(options["hardware"])}
    target = TensorRt(
        "tensorrt", import_module("tensorrt"), ahead_of_time=False, options=BuildOptions(**options)
    )
    made = target.build(quantized(plain), profile())
    assert target.load(made.plan, made.metadata).run({"x": X})["y"].shape == (32, 16, 192)
