"""What a quantized graph is to be, before any node is written: the writer decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from tasks.graphs.sites import Layer, Site
from tasks.numerics.block_floats import BlockQuantizer
from tasks.numerics.formats import NumberFormat
from tasks.numerics.quantized_weight import QuantizedWeight
from tasks.numerics.quantizer import Quantizer


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedSite:
    """A site whose weights are quantized, and with them its activation unless it is weight-only."""

    site: Site
    weights: tuple[QuantizedWeight, ...]  # one a layer, factors included
    activation: Quantizer | None = None  # None: dynamic, or left in floating point
    dynamic: bool = False
    per_token: bool = False  # each row is divided by its largest magnitude first
    smoothing_scales: NDArray[np.float32] | None = (
        None  # [channels] of the activation, where they could not be folded
    )
    corrections: tuple[NDArray[np.float32], ...] | None = (
        None  # one a layer, [outputs], added to what it returns
    )
    blocks: BlockQuantizer | None = None  # a scale a block of each row, found at run time


@dataclass(frozen=True, slots=True)
class CastSite:
    """A site that computes in a shorter floating-point format, casts around its products."""

    site: Site
    format: NumberFormat  # FP16 or BF16


@dataclass(frozen=True, slots=True, eq=False)
class GraphPlan:
    """Everything the writer needs; sites and tables that are absent stay as they are."""

    model: onnx.ModelProto  # full precision, with the foldable factors already folded in
    sites: tuple[QuantizedSite | CastSite, ...]
    # Initializer -> embedding table with one scale a row, or FP16, BF16, or the layer whose
    # quantized weight it is too.
    tables: Mapping[str, QuantizedWeight | NumberFormat | Layer]
    results: Mapping[str, Quantizer] = field(
        default_factory=dict
    )  # tensor -> its quantizer for the target that wants one on what layers make
    # Nodes of convolutions that this same target computes in floating point nevertheless.
    floats: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()  # tensors of `results` that it does not want then
    int8_products: bool = False  # whether weights of few bits may meet activations in INT8
    recurrent: tuple[str, ...] = ()  # LSTM nodes whose weights are stored in INT8
    recurrent_in_integers: bool = False  # whether a target may multiply them so
    rest: NumberFormat = NumberFormat.FP32  # of everything that is not quantized
    largest: Mapping[str, float] = field(
        default_factory=dict
    )  # tensor -> largest magnitude that calibration saw

    @property
    def scales(self) -> Mapping[str, Quantizer]:
        """The fixed activation quantizers, by site name."""
        return {
            item.site.name: item.activation
            for item in self.sites
            if isinstance(item, QuantizedSite) and item.activation is not None
        }
