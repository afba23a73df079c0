"""Real ONNX Runtime engines on a real device: what runs in which precision, memory, observation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.gpu.devices import why_not

graphs: Any = pytest.importorskip("tests.graphs", reason="ONNX Runtime is not installed")

WEIGHT = np.random.default_rng(0).standard_normal((256, 192)).astype(np.float32)
X = np.random.default_rng(1).uniform(-2, 2, (32, 16, 256)).astype(np.float32)


@pytest.fixture
def target() -> Any:
    reason = why_not("onnxruntime-cuda")
    if reason is not None:
        pytest.skip(reason)
    from infra.engines import open_target

    return open_target("onnxruntime-cuda")


def profile() -> Any:
    from infra.engines.port import Shapes

    return {"x": Shapes((1, 16, 256), (8, 16, 256), (32, 16, 256))}


def written(recipe: str) -> Any:
    """Write the product by a recipe of the catalog, from what it saw."""
    from tasks.graphs.sites import find_sites
    from tasks.observation.observer import Observer
    from tasks.quantization.graph import qdq
    from tasks.quantization.pipeline.derive import derive
    from tasks.quantization.recipe.catalog import RECIPES

    plain = graphs.product(WEIGHT, tokens=True)
    if recipe == "full-precision":
        return plain
    sites = find_sites(plain)
    observer = Observer(sites)
    observer.update({"x": X}, np.arange(len(X)))
    return qdq.write(derive(plain, sites, observer.result(), RECIPES[recipe], None).plan)


def built(target: Any, recipe: str) -> Any:
    from tasks.quantization.graph.lowering import lower

    return target.build(lower(written(recipe), target.form).SerializeToString(), profile())


PRECISIONS = {
    "full-precision": "FLOAT",
    "fp16": "FP16",
    "bf16": "BF16",
    "int4-block-32": "INT4",
    "int8-max": "FLOAT",  # Q/DQ around a product that multiplies what they restore
}


@pytest.mark.parametrize("recipe", PRECISIONS)
def test_each_precision_runs_on_the_device_as_the_profile_tells(target: Any, recipe: str) -> None:
    made = built(target, recipe)
    engine = target.load(made.plan)
    exact = graphs.run(graphs.product(WEIGHT, tokens=True), X)
    apart = np.linalg.norm(engine.run({"x": X})["y"] - exact) / np.linalg.norm(exact)
    kernels = target.kernels(made.layers, engine.inspection())
    products = [kernel for kernel in kernels if "node_MatMul_0" in kernel.nodes]
    taken = np.median(engine.time_runs({"x": X}, 30)[10:])
    print(f"{recipe}: {taken:.3f} ms, {apart:.1e} apart, {[k.precision for k in products]}")
    assert apart < (0.2 if recipe.startswith("int4") else 0.02)
    assert PRECISIONS[recipe] in [kernel.precision for kernel in products]
    assert not [kernel.name for kernel in products if "on the CPU" in kernel.name]


def test_int8_is_refused_by_what_ran(target: Any) -> None:
    from tasks.graphs.sites import find_sites
    from tasks.records import Verdict
    from tasks.validation.precision import asked_for, precision_gate

    graph, made = written("int8-max"), built(target, "int8-max")
    requested = asked_for(graph, find_sites(graphs.product(WEIGHT, tokens=True)))
    assert requested
    (gate,) = precision_gate(requested, target.kernels(made.layers, None), "")
    print(gate.reason)
    assert gate.verdict is Verdict.FAILED
    assert gate.binding


def test_tensors_on_the_device_give_what_arrays_give(target: Any) -> None:
    import torch

    engine = target.load_exact(written("full-precision").SerializeToString(), profile())
    found = engine.run_on_device({"x": torch.from_numpy(X).cuda()})["y"]
    assert found.is_cuda
    assert np.array_equal(found.cpu().numpy(), engine.run({"x": X})["y"])


def test_outputs_outlive_later_runs(target: Any) -> None:
    import torch

    engine = target.load_exact(written("full-precision").SerializeToString(), profile())
    outputs = [
        engine.run_on_device({"x": torch.full((8, 16, 256), float(i), device="cuda")})["y"]
        for i in range(8)
    ]
    bias = outputs[0]
    for number, output in enumerate(outputs):
        wanted = bias + number * (outputs[1] - bias)
        assert torch.allclose(output, wanted, rtol=1e-4, atol=1e-3)


def test_tensors_that_do_not_fit_are_bad_input(target: Any) -> None:
    import torch

    from infra.errors import BadInput

    engine = target.load(built(target, "full-precision").plan)
    x = torch.from_numpy(X)
    for feeds in ({}, {"x": x}, {"x": x.cuda().double()}, {"x": x.cuda()[..., :3]}):
        with pytest.raises(BadInput):
            engine.run_on_device(feeds)


def test_full_precision_is_observed_on_the_device_as_on_the_cpu(target: Any) -> None:
    from infra.engines import open_target
    from infra.engines.port import DeviceEngine
    from tasks.graphs.sites import expose, find_sites
    from tasks.observation.observer import Observer
    from tasks.observation.watch import engine_tensors
    from tests.observation_tolerance import why_apart

    plain = graphs.product(WEIGHT, tokens=True)
    sites = find_sites(plain)
    exposed = expose(plain, sites).SerializeToString()
    seen = []
    for opened in (open_target("onnxruntime-cpu"), target):
        engine = opened.load_exact(exposed, profile())
        assert isinstance(engine, DeviceEngine) is (opened is target)
        observer = Observer(sites)
        observer.update(engine_tensors(engine, {"x": X}), np.arange(len(X)))
        seen.append(observer.result())
    assert why_apart(*seen) is None


def test_memory_is_the_devices(target: Any) -> None:
    from infra.engines.footprint import peak_memory

    half, whole = (
        peak_memory(target.name, built(target, recipe).plan, {"x": X})
        for recipe in ("fp16", "full-precision")
    )
    print(f"{half / 1e6:.1f} MB with FP16, {whole / 1e6:.1f} MB in full precision")
    assert min(half, whole) > X.nbytes


def test_a_node_that_the_device_has_no_kernel_for_is_told(target: Any) -> None:
    from onnx import helper

    from infra.engines.port import Shapes

    node = helper.make_node("Det", ["x"], ["y"], "determinant")
    graph = graphs.model([node], {}, {"x": ["batch", 4, 4]}, {"y": ["batch"]})
    shapes = Shapes((1, 4, 4), (2, 4, 4), (4, 4, 4))
    made = target.build(graph.SerializeToString(), {"x": shapes})
    (kernel,) = target.kernels(made.layers, None)
    assert kernel.name == "determinant on the CPU"
