"""Whatever makes a tensor, and however the axes lie: factors fold along its channels, or not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tasks.graphs.sites import Site, find_sites, layer_weight
from tasks.numerics.quantized_weight import multiplied
from tasks.quantization.graph.folding import fold
from tests import graphs

SIZE = 4
"""Of every axis, so that a factor along the wrong one fits as well."""
Floats = NDArray[np.float32]


@dataclass
class Network:
    """A graph that grows node by node."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    last: str = "x"

    def constant(self, *shape: int) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = self.rng.uniform(0.5, 2.0, shape).astype(np.float32)
        return name

    def shape(self, *values: int) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = np.array(values, np.int64)
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **options: object) -> str:
        number = len(self.nodes)
        names = [f"t{number}"] + [f"t{number}_{extra}" for extra in range(1, outputs)]
        self.nodes.append(helper.make_node(op, [*inputs], names, f"n{number}", **options))
        return names[0]

    def step(self, op: str, rank: int, kind: int) -> None:
        """Put one more operator behind, which keeps the shape [SIZE] * rank."""
        self.last = _STEPS[op](self, rank, kind)


def broadcast(rank: int, kind: int) -> list[int]:
    """Return the shape of a constant with one long axis, of any rank up to `rank`."""
    axis = kind % rank
    shape = [1] * rank
    shape[axis] = SIZE
    return shape[min(axis, kind // rank % rank) :]


def _elementwise(op: str) -> object:
    def put(network: Network, rank: int, kind: int) -> str:
        pair = [network.last, network.constant(*broadcast(rank, kind))]
        return network.add(op, *(pair if kind % 2 else reversed(pair)))

    return put


def _alone(op: str, **options: object) -> object:
    return lambda network, rank, kind: network.add(op, network.last, **options)


def _matmul(network: Network, rank: int, kind: int) -> str:
    weight = network.constant(*[SIZE] * (rank if kind % 3 == 0 else 2))
    pair = [network.last, weight]
    return network.add("MatMul", *(pair if kind % 2 else reversed(pair)))


def _gemm(network: Network, rank: int, kind: int) -> str:
    flat = network.add("Reshape", network.last, network.shape(-1, SIZE))
    bias = [[SIZE], [1, SIZE], [1], []][kind % 4]
    options = {"transB": kind % 2, "alpha": 0.5, "beta": 2.0}
    inputs = (flat, network.constant(SIZE, SIZE), network.constant(*bias))
    product = network.add("Gemm", *inputs, **options)
    return network.add("Reshape", product, network.shape(*[SIZE] * rank))


def _convolution(network: Network, rank: int, kind: int) -> str:
    if rank < 3:
        return network.last
    groups = 2 if kind % 2 else 1
    weight = network.constant(SIZE, SIZE // groups, *[1] * (rank - 2))
    return network.add("Conv", network.last, weight, network.constant(SIZE), group=groups)


def _norm(network: Network, rank: int, kind: int) -> str:
    if kind % 3 == 0 and rank > 2:
        gains = network.constant(SIZE), network.constant(SIZE)
        return network.add("InstanceNormalization", network.last, *gains)
    whole = kind % 3 == 1
    shape = [SIZE] * rank if whole else [SIZE]
    gains = network.constant(*shape), network.constant(*shape)
    axis = 0 if whole else -1
    return network.add("LayerNormalization", network.last, *gains, axis=axis)


def _moved(network: Network, rank: int, kind: int) -> str:
    perm = list(np.random.default_rng(kind).permutation(rank))
    return network.add("Transpose", network.last, perm=[int(place) for place in perm])


def _joined(network: Network, rank: int, kind: int) -> str:
    axis, halves = kind % rank, network.shape(SIZE // 2, SIZE // 2)
    first = network.add("Split", network.last, halves, outputs=2, axis=axis)
    parts = (first, f"{first}_1") if kind % 2 else (f"{first}_1", first)
    return network.add("Concat", *parts, axis=axis)


def _pool(network: Network, rank: int, kind: int) -> str:
    if rank < 3:
        return network.last
    op = "MaxPool" if kind % 2 else "AveragePool"
    return network.add(op, network.last, kernel_shape=[1] * (rank - 2))


def _gated(network: Network, rank: int, kind: int) -> str:
    weight = network.constant(SIZE, SIZE)
    opened = network.add("Sigmoid", network.add("MatMul", network.last, weight))
    return network.add("Mul", opened, network.last)


_STEPS: dict[str, object] = {
    "Mul": _elementwise("Mul"),
    "Add": _elementwise("Add"),
    "Relu": _alone("Relu"),
    "LeakyRelu": _alone("LeakyRelu", alpha=0.3),
    "Identity": _alone("Identity"),
    "Sigmoid": _alone("Sigmoid"),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _convolution,
    "Norm": _norm,
    "Transpose": _moved,
    "Split": _joined,
    "Pool": _pool,
    "Gate": _gated,
}


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, Floats]:
    """Draw some operators and a layer behind them, from x to y, all axes of one size."""
    rank = draw(st.integers(2, 5))
    network = Network(np.random.default_rng(draw(st.integers(0, 99))))
    for op in draw(st.lists(st.sampled_from(sorted(_STEPS)), min_size=1, max_size=4)):
        network.step(op, rank, draw(st.integers(0, 59)))
    layer = draw(st.sampled_from(["MatMul", "Conv"] if rank > 2 else ["MatMul", "Gemm"]))
    if layer == "Conv":
        weight = network.constant(SIZE, SIZE, *[1] * (rank - 2))
    else:
        weight = network.constant(SIZE, SIZE)
    options = {"transB": draw(st.integers(0, 1))} if layer == "Gemm" else {}
    network.nodes.append(helper.make_node(layer, [network.last, weight], ["y"], "end", **options))
    shape = [SIZE] * rank
    model = graphs.model(network.nodes, network.weights, {"x": shape}, {"y": shape})
    x = network.rng.uniform(0.5, 2.0, shape).astype(np.float32)
    return model, x * np.where(network.rng.random(shape) < 0.5, -1, 1).astype(np.float32)


@given(networks())
def test_the_function_stays_wherever_factors_fold(drawn: tuple[onnx.ModelProto, Floats]) -> None:
    model, x = drawn
    exact = graphs.run(model, x)
    for site in find_sites(model):
        rng = np.random.default_rng(1)
        factors = {site.name: rng.uniform(0.25, 4.0, SIZE).astype(np.float32)}
        changed, done = fold(model, (site,), factors)
        if not done:
            assert changed.SerializeToString() == model.SerializeToString()
            continue
        multiply(changed, site, factors[site.name])
        differs = float(np.abs(graphs.run(changed, x) - exact).max())
        assert differs <= 1e-5 * max(1.0, float(np.abs(exact).max())), site


def multiply(model: onnx.ModelProto, site: Site, factors: Floats) -> None:
    """Multiply what reads a divided tensor, as a quantized layer's weight is."""
    constants = {item.name: item for item in model.graph.initializer}
    for layer in site.layers:
        weight = multiplied(layer_weight(model, layer), factors)
        moved = np.ascontiguousarray(np.moveaxis(weight, 0, layer.output_axis))
        constants[layer.weight].CopyFrom(numpy_helper.from_array(moved, layer.weight))
