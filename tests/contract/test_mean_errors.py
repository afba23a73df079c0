"""What INT8 adds on the mean is taken off, as the runtime itself computes the corrected graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from infra.engines import open_target
from infra.engines.port import Shapes
from tasks.graphs.canonical.names import free_names
from tasks.graphs.integer_regions import result_sites
from tasks.graphs.sites import expose, find_sites
from tasks.models.batches import Batch
from tasks.observation.observer import Observer
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.candidate import CalibrationEvidence, Champion, quantize
from tasks.quantization.pipeline.tuning import tune
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.sensitivity.integer_placement import KernelEvidence
from tasks.quantization.weight.integer_biases import SUFFIX
from tasks.records import Payload
from tasks.specs.traits import Task

SHAPE = (1, 8, 12, 12)
LAYERS = 5
COUNT = 32


def network() -> onnx.ModelProto:
    """Return convolutions with and without biases, their results cut at 0, and a product."""
    rng = np.random.default_rng(0)
    nodes, constants, source = [], {}, "x"
    for place in range(LAYERS):
        constants[f"w{place}"] = rng.normal(0, 0.2, (8, 8, 3, 3))
        names = [source, f"w{place}"]
        if place % 2:
            constants[f"b{place}"] = rng.normal(0, 0.2, 8)
            names.append(f"b{place}")
        nodes.append(helper.make_node("Conv", names, [f"c{place}"], f"conv{place}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [f"r{place}"], f"relu{place}"))
        source = f"r{place}"
    constants |= {"w": rng.normal(0, 0.3, (8, 6)), "b": rng.normal(0, 0.3, 6)}
    nodes += [
        helper.make_node("GlobalAveragePool", [source], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "w"], ["product"], "head"),
        helper.make_node("Add", ["product", "b"], ["y"], "sum"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", *SHAPE[1:]))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 6))],
        [numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class Noise:
    """Cases of positive values, as of images: what rounding weights adds does not cancel."""

    output = "y"

    @property
    def profile(self) -> dict[str, Shapes]:
        return {"x": Shapes(SHAPE, SHAPE, SHAPE)}

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        for number, payload in enumerate(payloads):
            yield Batch({"x": np.asarray(payload, np.float32)}, np.array([number]), None)


def cases(seed: int, count: int = COUNT) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.gamma(1.0, 1.0, SHAPE).astype(np.float32) for _ in range(count)]


def evidence(model: onnx.ModelProto, payloads: list[np.ndarray]) -> CalibrationEvidence:
    sites = find_sites(model)
    watched = (*sites, *result_sites(model, sites))
    engine = open_target("onnxruntime-cpu").load(expose(model, watched).SerializeToString())
    observer = Observer(watched)
    for number, value in enumerate(payloads):
        observer.update({"x": value, **engine.run({"x": value})}, np.array([number]))
    kernels = KernelEvidence(Noise(), Task.CUSTOM, payloads, 1.0, 2.0)  # type: ignore[arg-type]
    return CalibrationEvidence(model, sites, observer.result(), kernels=kernels)


@pytest.fixture(scope="module")
def calibrated() -> tuple[CalibrationEvidence, onnx.ModelProto]:
    seen, recipe = evidence(network(), cases(1)), find_recipe("int8-mse")
    tuned = tune(seen.model, seen.sites, seen.observed, recipe, None)
    return seen, quantize(seen, recipe, None, tuned).graph


def plain(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    kept = [item for item in copy.graph.initializer if not item.name.endswith(SUFFIX)]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


def answers(graph: onnx.ModelProto, payloads: list[np.ndarray]) -> np.ndarray:
    engine = open_target("onnxruntime-cpu").load(graph.SerializeToString())
    return np.concatenate([engine.run({"x": value})["y"] for value in payloads])


def test_every_layer_has_a_bias_of_its_own_on_this_target(
    calibrated: tuple[CalibrationEvidence, onnx.ModelProto],
) -> None:
    _, graph = calibrated
    stored = {item.name for item in graph.graph.initializer if item.name.endswith(SUFFIX)}
    assert stored == {f"{name}{SUFFIX}" for name in (*(f"conv{n}" for n in range(LAYERS)), "head")}
    onnx.checker.check_model(lower(graph, "u8"))


def test_outputs_keep_full_precisions_mean_on_cases_that_nobody_saw(
    calibrated: tuple[CalibrationEvidence, onnx.ModelProto],
) -> None:
    seen, graph = calibrated
    fresh = cases(2, 64)
    exact = answers(seen.model, fresh)
    shifts = [
        np.abs((answers(lower(form, "u8"), fresh) - exact).mean(axis=0)).mean()
        for form in (plain(graph), graph)
    ]
    assert shifts[1] < 0.5 * shifts[0]


def test_the_other_target_reads_none(
    calibrated: tuple[CalibrationEvidence, onnx.ModelProto],
) -> None:
    _, graph = calibrated
    assert lower(graph, "s8") == lower(plain(graph), "s8")


def test_a_recalibration_measures_them_again(
    calibrated: tuple[CalibrationEvidence, onnx.ModelProto],
) -> None:
    seen, graph = calibrated
    recipe = find_recipe("recalibrate")
    scales = quantize(seen, find_recipe("int8-mse")).derived
    louder = evidence(seen.model, [3 * value for value in cases(3)])
    champion = Champion(scales.scales, graph, results=scales.results)
    renewed = quantize(louder, recipe, champion).graph
    before, after = (
        {item.name: item for item in form.graph.initializer if item.name.endswith(SUFFIX)}
        for form in (graph, renewed)
    )
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_a_constant_that_bears_such_a_name_is_renamed_at_the_door() -> None:
    model = network()
    for node in model.graph.node:
        node.input[:] = ["conv0.integer_bias" if name == "b1" else name for name in node.input]
    for item in model.graph.initializer:
        item.name = "conv0.integer_bias" if item.name == "b1" else item.name
    before = answers(model, cases(4, 2))
    free_names(model)
    assert not any(item.name.endswith(SUFFIX) for item in model.graph.initializer)
    np.testing.assert_array_equal(answers(model, cases(4, 2)), before)
