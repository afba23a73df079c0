"""Smoothing scales folded into the layers that make a tensor: nothing is left at run time.

SmoothQuant divides an activation by scales, one a channel. Where a norm's gain, or a layer before
with nothing but positively homogeneous steps between, makes that activation for the quantized
layers alone, its own constants are divided instead (Xiao et al., 2023, section 4; Nagel et al.,
"Data-free quantization", 2019, section 4.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tasks.graphs.sites import Site
from tasks.graphs.weights import constant_values, constants_like

_THROUGH = frozenset(
    {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Dropout"}
)
"""f(cx) = c f(x) for c > 0, channel by channel."""
_NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
"""Their gain lies along the last axes."""
_CHANNEL_NORMS = frozenset({"InstanceNormalization"})
"""Their gain lies along axis 1."""
_SAME_AXES = frozenset({"Relu", "LeakyRelu", "Identity", "Dropout"})


def fold(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    smoothing_scales: Mapping[str, NDArray[np.float32]],
) -> tuple[onnx.ModelProto, frozenset[str]]:
    """Return a copy of the model whose foldable sites are already divided.

    And the names of those sites.

    `smoothing_scales` are site name -> [channels]. A site whose tensor somebody else reads too
    keeps its division.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    folder = _Folder(copy.graph)
    done = [
        site.name
        for site in sites
        if site.name in smoothing_scales
        and folder.divide(
            site.tensor, smoothing_scales[site.name], folder.place(site), readers=len(site.layers)
        )
    ]
    return copy, frozenset(done)


@dataclass(frozen=True, slots=True)
class _Channels:
    """Where the channels of a tensor lie: along axis 1 of `rank`, or along the last axis."""

    rank: int | None  # None: along the last axis

    @property
    def last(self) -> bool:
        return self.rank is None

    def of_constant(self, shape: tuple[int, ...]) -> int | None:
        """Return the axis of a constant that meets the channels by broadcasting; None: none."""
        axis = len(shape) - (1 if self.rank is None else self.rank - 1)
        return axis if 0 <= axis < len(shape) else None


class _Folder:
    """Rewrites constants of one graph in place."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constant = constants_like(graph)
        self._constants = {item.name: item for item in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers = Counter(name for node in graph.node for name in node.input)
        self._readers.update(item.name for item in graph.output)

    def place(self, site: Site) -> _Channels:
        """Return where the channels of a site lie; a convolution's weight has its input's rank."""
        ranks = {len(self._constants[layer.weight].dims) for layer in site.layers}
        return _Channels(ranks.pop() if site.channel_axis == 1 and len(ranks) == 1 else None)

    def divide(
        self, tensor: str, factors: NDArray[np.float32], axis: _Channels, *, readers: int
    ) -> bool:
        """Divide a tensor along its channels by smoothing scales [channels].

        Where it returns False, nothing was changed.
        """
        node = self._makers.get(tensor)
        if node is None or self._readers[tensor] != readers or node.output[0] != tensor:
            return False
        if node.op_type in _THROUGH:
            return self._through(node, factors, axis)
        if node.op_type in _NORMS | _CHANNEL_NORMS:
            return self._norm(node, factors, axis)
        if node.op_type == "Mul":
            return self._product(node, factors, axis)
        if node.op_type == "Add":
            return self._sum(node, factors, axis)
        return self._layer(node, factors, axis)

    def _through(self, node: onnx.NodeProto, factors: NDArray[np.float32], axis: _Channels) -> bool:
        if axis.last and node.op_type not in _SAME_AXES:
            return False  # a pool's last axis is space
        return self.divide(node.input[0], factors, axis, readers=1)

    def _norm(self, node: onnx.NodeProto, factors: NDArray[np.float32], axis: _Channels) -> bool:
        """Divide gain and shift, which are [channels] whatever the input's axes."""
        if axis.last != (node.op_type in _NORMS):
            return False
        places = range(1, len(node.input))
        return self._constants_of(node, places, factors, _Channels(None))

    def _product(self, node: onnx.NodeProto, factors: NDArray[np.float32], axis: _Channels) -> bool:
        """Divide a gain, or one branch of a gated unit."""
        constants = [place for place, name in enumerate(node.input) if name in self._constants]
        if constants:
            return self._constants_of(node, constants, factors, axis)
        return any(
            self.divide(name, factors, axis, readers=1) for name in dict.fromkeys(node.input)
        )

    def _sum(self, node: onnx.NodeProto, factors: NDArray[np.float32], axis: _Channels) -> bool:
        constants = [place for place, name in enumerate(node.input) if name in self._constants]
        if len(constants) != 1 or not self._fits(node.input[constants[0]], factors, axis):
            return False
        other = node.input[1 - constants[0]]
        return self.divide(other, factors, axis, readers=1) and self._constants_of(
            node, constants, factors, axis
        )

    def _layer(self, node: onnx.NodeProto, factors: NDArray[np.float32], axis: _Channels) -> bool:
        """Divide rows of a weighted layer's weight, and its bias."""
        if node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[1] not in self._constants:
            return False
        weight = constant_values(self._constants[node.input[1]])
        transposed = any(item.name == "transB" and item.i for item in node.attribute)
        of_rows = node.op_type == "Conv" or (node.op_type == "Gemm" and transposed)
        output_axis = 0 if of_rows else weight.ndim - 1  # also of a stack of matrices
        fits = weight.ndim >= 2 and weight.shape[output_axis] == factors.size
        if not fits or axis.last == (node.op_type == "Conv"):
            return False
        if not all(self._is_own(name) for name in node.input[1:] if name):
            return False
        shape = [1] * weight.ndim
        shape[output_axis] = -1
        self._replace(node.input[1], weight / factors.reshape(shape))
        if len(node.input) > 2 and node.input[2]:
            self._replace(node.input[2], constant_values(self._constants[node.input[2]]) / factors)
        return True

    def _constants_of(
        self,
        node: onnx.NodeProto,
        places: range | list[int],
        factors: NDArray[np.float32],
        axis: _Channels,
    ) -> bool:
        """Divide the node's constants at these places, all or none."""
        names = [node.input[place] for place in places if node.input[place]]
        if not names or not all(self._fits(name, factors, axis) for name in names):
            return False
        for name in names:
            values = constant_values(self._constants[name])
            self._replace(name, values / factors.reshape(values.shape))
        return True

    def _fits(self, name: str, factors: NDArray[np.float32], axis: _Channels) -> bool:
        """Return whether a constant is this node's alone, with one value a channel.

        No axis but the channels' is longer than 1.
        """
        if not self._is_own(name):
            return False
        shape = tuple(self._constants[name].dims)
        place = axis.of_constant(shape)
        if place is None or int(np.prod(shape)) != factors.size:
            return False
        return bool(shape[place] == factors.size)

    def _is_own(self, name: str) -> bool:
        """Return whether a float32 constant has one reader."""
        item = self._constants.get(name)
        if item is None or self._readers[name] != 1:
            return False
        return bool(item.data_type == onnx.TensorProto.FLOAT)

    def _replace(self, name: str, values: NDArray[np.floating]) -> None:
        self._constants[name].CopyFrom(self._constant(values.astype(np.float32), name))
