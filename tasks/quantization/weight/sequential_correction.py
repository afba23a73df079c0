"""Bias correction layer by layer, each over what the corrected ones before it make.

Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019),
section 4.2, in the empirical form of its appendix: a layer's mean error is measured in the
quantized network itself, so what is clipped and rounded before counts as well. All at once would
take the same error off many times.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.engines.port import Arrays
from tasks.graphs.weights import constant_values, inside
from tasks.quantization.weight.integer_biases import (
    CONVOLUTIONS,
    SUFFIX,
    BiasPlace,
    bias_places,
    put_bias,
)
from tasks.quantization.weight.resumed_run import Values, plan_steps, run_steps

LARGEST_BIAS = 2.0**30
"""Of the levels that an INT32 holds: a bias is stored in steps of both scales' product."""
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """What one layer's result is on the mean."""

    layer: str  # node
    channels: _Floats  # [channels]


def exact_means(
    model: onnx.ModelProto,
    layers: Collection[str],
    cases: Sequence[Arrays],
    divided: Collection[str] = (),
) -> dict[str, Means]:
    """Return what the results of full precision's layers are on the mean, by tensor.

    Args:
        model: Full precision, untouched.
        layers: Nodes; a product without a bias behind it has no mean here.
        cases: Feeds, one mapping a case.
        divided: Tensors that folded factors change in the quantized graph; they have none either.
    """
    places = {place.result: place for place in bias_places(model.graph, layers)}
    places = {name: place for name, place in places.items() if name not in divided}
    means = {}

    def record(name: str, values: Values) -> Values:
        means[name] = Means(places[name].layer, channel_mean(values, places[name].axis))
        return values

    run_steps(model, plan_steps(model.graph, list(places), places), cases, record)
    return means


def corrected_biases(
    lowered: onnx.ModelProto, means: Mapping[str, Means], cases: Sequence[Arrays]
) -> dict[str, NDArray[np.float32]]:
    """Return node -> the bias, [outputs], under which its result has full precision's mean.

    About two passes over the cases, whatever the depth.

    Args:
        lowered: The quantized graph, as the target takes it.
        means: Full precision's.
        cases: Feeds, one mapping a case: those of which the means were taken.
    """
    present = onnx.ModelProto()
    present.CopyFrom(lowered)
    layers = {item.layer for item in means.values()}
    places = {place.result: place for place in bias_places(present.graph, layers)}
    places = {name: place for name, place in places.items() if name in means}
    correction = _Correction(present, places, means)
    steps = plan_steps(present.graph, list(places), correction.cuts)
    run_steps(present, steps, cases, correction.visit)
    return correction.biases


class _Correction:
    """Sets one bias after the other in a graph that is being run."""

    def __init__(
        self, model: onnx.ModelProto, places: Mapping[str, BiasPlace], means: Mapping[str, Means]
    ) -> None:
        self._graph, self._places, self._means = model.graph, places, means
        self._nodes = {node.name: node for node in model.graph.node}
        self._room = _room(model.graph)
        self._constants = {item.name: item for item in model.graph.initializer}
        self.biases: dict[str, NDArray[np.float32]] = {}

    @property
    def cuts(self) -> set[str]:
        """Quantized values, and results that are floats whatever reads them."""
        graph = self._graph
        quantized = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
        restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        floats = {
            place.result
            for place in self._places.values()
            if self._nodes[place.layer].op_type not in CONVOLUTIONS
            or self._nodes[place.layer].input[0] not in restored
        }
        return quantized | floats

    def visit(self, name: str, values: Values) -> Values:
        """Give a layer the bias under which its mean is right; returns its results under it."""
        place, wanted = self._places[name], self._means[name].channels
        mean = channel_mean(values, place.axis)
        before = np.zeros(len(mean), np.float32) if place.bias is None else place.bias
        if not before.shape == mean.shape == wanted.shape:
            return values
        limit = np.maximum(self._room.get(place.layer, np.inf), np.abs(before))
        bias = np.clip(before + wanted - mean, -limit, limit).astype(np.float32)
        self.biases[place.layer] = bias
        self._set(place, bias)
        return [value + _along(bias - before, value, place.axis) for value in values]

    def _set(self, place: BiasPlace, bias: NDArray[np.float32]) -> None:
        put_bias(self._nodes[place.holder], place.place, f"{place.layer}{SUFFIX}")
        self._graph.initializer.append(inside(bias, f"{place.layer}{SUFFIX}"))


def channel_mean(values: Values, axis: int) -> _Floats:
    """Return the mean over cases of each channel's mean, [channels]."""
    means = []
    for value in values:
        channels = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
        means.append(channels.mean(axis=0, dtype=np.float64))
    return np.asarray(np.mean(means, axis=0))


def _along(
    shift: NDArray[np.float32], value: NDArray[np.float32], axis: int
) -> NDArray[np.float32]:
    shape = [1] * value.ndim
    shape[axis] = -1
    return shift.reshape(shape).astype(value.dtype)


def _room(graph: onnx.GraphProto) -> Mapping[str, _Floats]:
    """Return node -> the largest bias that fits beside quantized values, [outputs] or []."""
    constants = {item.name: item for item in graph.initializer}
    restoring = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    room: dict[str, _Floats] = {}
    for node in graph.node:
        makers = [restoring.get(name) for name in node.input[:2]]
        scales = [
            constant_values(constants[maker.input[1]]).astype(np.float64)
            for maker in makers
            if maker is not None and maker.input[1] in constants
        ]
        if len(scales) == len(makers) == 2 and scales[0].ndim == 0 and scales[1].ndim < 2:
            room[node.name] = scales[0] * scales[1] * LARGEST_BIAS
    return room
