"""What work on a model takes in memory, estimated from its shapes before the work begins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from tasks.graphs.sites import Site
from tasks.graphs.weightless import weightless
from tasks.numerics.quantized_weight import OUTPUTS_AT_ONCE

COPIES = 6
"""Of the weights, while a graph is observed, derived and built.

They are: graph, session, prepacked, folded, written, stored.
"""
EXPORT_COPIES = 5
"""While a source is read, exported, checked and stored."""
READY_COPIES = 9
"""While an ONNX file is read, made canonical, and compared with the file."""
BESIDE_BASE = 300_000_000
"""The same as `BASE`, with what a graph of many layers takes by itself."""
EXPORT_BASE = 450_000_000
"""The same for a process that exports: torch, transformers, and what a trace leaves."""
TURNED = 2
"""Copies of the largest weight: in float32, and as the graph multiplies by it."""
GROUPS = 3
"""Of cases whose activations are in memory at once: counted, returned, and computed."""
PACKED = 0.5
"""Of the weights' bytes: quantized ones, held until they are written and packed by the engine."""
SEARCH = 4
"""Copies of the largest site's weights while it is searched."""
BASE = 150_000_000
"""Bytes of libraries that are loaded, and of buffers that do not depend on the model."""
HESSIAN = 44
"""Bytes an element of GPTQ's Gram matrix: one in float32, five in float64.

Those are its damping, its factor and the inverse.
"""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes at the peak."""

    weights: int  # all copies
    activations: int  # of one batch, at every site
    largest: int  # the weights of the site that has most
    gram: int  # what GPTQ makes of the widest layer's
    rows: int  # that the observer keeps

    @property
    def total(self) -> int:
        """Return the sum, with what does not depend on the model."""
        search = SEARCH * self.largest + self.gram
        return self.weights + self.activations + search + self.rows + BASE


def footprint(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    *,
    tokens: int,
    batch: int,
    kept: int,
    hessian: bool = False,
    inputs: Mapping[str, Sequence[int]] | None = None,
) -> Footprint:
    """Return what observing a model in batches and deriving one graph takes.

    Args:
        model: the graph; its weights are not read.
        sites: that are observed, with those that have no layers of their own.
        tokens: stands for every dimension that is not fixed.
        batch: the first dimension of an activation.
        kept: rows that the observer keeps of a site.
        hessian: whether the recipe rounds by GPTQ.
        inputs: shapes of the graph's inputs by name, where a dimension is no number of tokens: what
            follows from them is counted as it is.
    """
    sizes = {
        item.name: math.prod(item.dims) * _width(item.data_type) for item in model.graph.initializer
    }
    dims = {item.name: tuple(item.dims) for item in model.graph.initializer}
    shapes = _shapes(model, tokens, batch, inputs or {})
    activations = {site.name: shapes.get(site.tensor, ()) for site in sites}
    elements = [math.prod(shape) for shape in activations.values()]
    results = [math.prod(shapes.get(item.name, ())) for item in model.graph.output]
    layers = [sum(sizes[layer.weight] for layer in site.layers) for site in sites]
    widths = [
        math.prod(dims[layer.weight]) // dims[layer.weight][layer.output_axis]
        for site in sites
        for layer in site.layers
    ]
    largest = max([*elements, *results, 0])
    return Footprint(
        weights=COPIES * sum(sizes.values()),
        activations=4 * (sum(elements) + sum(results) + 2 * largest),
        largest=max(layers, default=0),
        gram=HESSIAN * max(widths, default=0) ** 2 if hessian else 0,
        rows=4
        * kept
        * sum(
            activations[site.name][site.channel_axis]
            for site in sites
            if activations[site.name] and site.layers  # of others a range is all that is kept
        ),
    )


def observing_beside(
    model: onnx.ModelProto, sites: tuple[Site, ...], *, tokens: int, cases: int, kept: int
) -> int:
    """Return the bytes that observing takes where weights are mapped from files.

    So many cases run at a time. Pages of files are given back when others need memory.
    """
    part = footprint(_without_outputs(model), sites, tokens=tokens, batch=cases, kept=kept)
    return BESIDE_BASE + GROUPS * part.activations + part.rows


def deriving_beside(
    model: onnx.ModelProto, sites: tuple[Site, ...], *, tokens: int, kept: int, hessian: bool
) -> int:
    """Return the bytes that a recipe's graph and engine take where weights are mapped from files.

    They are rows, the largest site's weights smoothed (their copies are of a part at a time), what
    a part of it makes of the rows, exact and quantized, and quantized weights: those of the graph
    until they are written, and those that the engine packs.
    """
    whole = footprint(model, sites, tokens=tokens, batch=1, kept=kept, hessian=hessian)
    dims = {item.name: item.dims for item in model.graph.initializer}
    outputs = [dims[layer.weight][layer.output_axis] for site in sites for layer in site.layers]
    compared = 2 * 4 * kept * min(OUTPUTS_AT_ONCE, max(outputs, default=0))
    search = whole.largest + whole.gram + compared
    return BESIDE_BASE + whole.rows + search + round(PACKED * whole.weights / COPIES)


def _without_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph that returns nothing: what is observed alone is returned."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    return copy


def export_footprint(weights: int, copies: float = EXPORT_COPIES) -> int:
    """Return the bytes at the peak of registering a source of so many bytes in float32."""
    return round(copies * weights) + BASE


def export_footprint_beside(weights: int, largest: int, *, mapped: bool) -> int:
    """Return the bytes at the peak of registering a source whose weights go to files.

    Args:
        weights: Bytes in float32.
        largest: Of the largest of them.
        mapped: Whether the source is read piece by piece, and not whole.
    """
    return EXPORT_BASE + TURNED * largest + (0 if mapped else weights)


def _shapes(
    model: onnx.ModelProto, tokens: int, batch: int, inputs: Mapping[str, Sequence[int]]
) -> Mapping[str, tuple[int, ...]]:
    """Return shapes of all tensors by name, inferred without the weights' values."""
    light = weightless(model)
    for item in light.graph.input:
        dims = item.type.tensor_type.shape.dim
        for dim, size in zip(dims, inputs.get(item.name, ()), strict=False):
            dim.dim_value = size
    if inputs:  # the graph's own words about its outputs would stand against them
        for item in light.graph.output:
            item.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    return {
        item.name: tuple(
            dim.dim_value or (tokens if place else batch)
            for place, dim in enumerate(item.type.tensor_type.shape.dim)
        )
        for item in (*graph.input, *graph.output, *graph.value_info)
    }


def _width(data_type: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)
