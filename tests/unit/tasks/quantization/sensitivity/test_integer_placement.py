"""The search for the convolutions that stay in floats, given engines whose times are known."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from infra.engines.port import Arrays
from tasks.models.batches import Batch
from tasks.quantization.sensitivity import integer_placement
from tasks.quantization.sensitivity.integer_placement import (
    ConvolutionCost,
    KernelEvidence,
    convolution_costs,
    place,
    recorded_tolerance,
)
from tasks.records import Payload
from tasks.specs.traits import Task

COSTS = (
    ConvolutionCost("first", 10, "input"),
    ConvolutionCost("deep", 10, "depthwise"),
    ConvolutionCost("fine", 40, "other"),
    ConvolutionCost("harmful", 5, "other"),
    ConvolutionCost("large", 935, "other"),
)
PRODUCTS = sum(cost.products for cost in COSTS)


class Cases:
    """Cases of one number each."""

    output = "y"

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        for number, payload in enumerate(payloads):
            feeds = {"x": np.asarray(payload, np.float32).reshape(1, 1)}
            yield Batch(feeds, np.array([number]), None)


class KnownEngine:
    """Its time is the sum over layers; what is in INT8 turns the output away from the truth."""

    def __init__(self, floats: Collection[str] | None, wide: float = 0.0) -> None:
        self._wide = wide
        self._int8 = {cost.node for cost in COSTS} - set(floats) if floats is not None else set()
        self._saves = floats is not None

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        wrong = 0.3 * ("harmful" in self._int8) + 0.0005 * ("fine" in self._int8)
        return {"y": np.array([[1.0, wrong + self._wide]], np.float32)}

    def time_runs(self, feeds: Arrays, rounds: int) -> np.ndarray:
        slow = 5.0 if "deep" in self._int8 else 0.0
        return np.full(rounds, 10.0 + slow - len(self._int8))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(graph: bytes) -> KnownEngine:
        text, _, wide = graph.decode().partition("/")
        if text == "reference":
            return KnownEngine(None)
        return KnownEngine([name for name in text.split(",") if name], float(wide))

    monkeypatch.setattr(integer_placement, "_load", load)


def evidence(fraction: float = 0.8, latency: float = 2.0) -> KernelEvidence:
    payloads = [np.ones((1, 1), np.float32) for _ in range(8)]
    return KernelEvidence(Cases(), Task.CUSTOM, payloads, fraction, latency)  # type: ignore[arg-type]


def build(floats: Collection[str], tolerance: float | None) -> bytes:
    return f"{','.join(floats)}/0.0".encode()


WIDE = {None: 0.6, 0.1: 0.2, 0.2: 0.05, 0.5: 0.4}
"""How wrong the output is for the range of what layers make."""


def test_results_are_clipped_where_that_loses_least_and_a_recalibration_is_told() -> None:
    def wide(floats: Collection[str], tolerance: float | None) -> bytes:
        return f"{','.join(floats)}/{WIDE[tolerance]}".encode()

    found = place(wide, b"reference", COSTS, PRODUCTS, evidence())
    assert found.tolerance == 0.2
    assert recorded_tolerance(found.document()) == 0.2
    assert "1.2 times the least" in found.sentences[0]


def test_the_recipes_own_range_stays_where_none_is_better() -> None:
    found = place(build, b"reference", COSTS, PRODUCTS, evidence())
    assert found.tolerance is None
    assert recorded_tolerance(found.document()) is None
    assert recorded_tolerance(None) is None


def test_a_saturated_output_that_loses_nothing_is_placed_by_time_alone() -> None:
    def exact(floats: Collection[str], tolerance: float | None) -> bytes:
        return f"{','.join([*floats, 'harmful', 'fine'])}/0.0".encode()

    found = place(exact, b"reference", COSTS, PRODUCTS, evidence())
    assert (set(found.reasons), found.tolerance) == ({"deep"}, None)


def test_kinds_that_are_faster_in_floats_stay_there_and_then_what_costs_the_output_most() -> None:
    found = place(build, b"reference", COSTS, PRODUCTS, evidence())
    assert set(found.reasons) == {"deep", "harmful"}
    assert "INT8 is slower" in found.reasons["deep"]
    assert "loss" in found.reasons["harmful"]
    assert "large" not in found.saved  # more than may stay in floats
    assert found.document()["floats"] == dict(found.reasons)
    assert len(found.sentences) == 2


def test_of_combinations_as_fast_as_can_be_told_the_one_of_fewest_products_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(engine: KnownEngine, feeds: Arrays, rounds: int) -> np.ndarray:
        slow = 5.0 * ("deep" in engine._int8) + 0.05 * ("first" in engine._int8)
        return np.full(rounds, 5.0 + slow)

    monkeypatch.setattr(KnownEngine, "time_runs", measured)
    found = place(build, b"reference", COSTS, PRODUCTS, evidence())
    assert "deep" in found.reasons
    assert "first" not in found.reasons


def test_no_more_stays_in_floats_than_the_spec_allows() -> None:
    found = place(build, b"reference", COSTS, PRODUCTS, evidence(fraction=0.999))
    assert found.reasons == {}


def test_what_would_be_too_slow_stays_in_integers() -> None:
    found = place(build, b"reference", COSTS, PRODUCTS, evidence(latency=0.1))
    assert set(found.reasons) == {"deep"}


def test_few_layers_are_left_alone() -> None:
    found = place(build, b"reference", COSTS[:3], PRODUCTS, evidence())
    assert found.reasons == {}
    assert not found.trials


def test_the_kind_of_a_convolution_follows_from_its_weight_and_products() -> None:
    weights = {"a": (8, 3, 3, 3), "b": (8, 1, 3, 3), "c": (2, 8, 1, 1), "d": (8, 8, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], "a"),
        helper.make_node("Conv", ["h", "b"], ["i"], "b", group=8),
        helper.make_node("Conv", ["i", "c"], ["j"], "c"),
        helper.make_node("Conv", ["i", "d"], ["k"], "d"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [],
        [
            numpy_helper.from_array(np.zeros(shape, np.float32), name)
            for name, shape in weights.items()
        ],
    )
    model: onnx.ModelProto = helper.make_model(graph)
    products = {"a": 999, "b": 999, "c": 16, "d": 999}
    kinds = {cost.node: cost.kind for cost in convolution_costs(model, "abcd", products)}
    assert kinds == {"a": "input", "b": "depthwise", "c": "one place", "d": "other"}
