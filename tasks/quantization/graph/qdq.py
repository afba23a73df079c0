"""The explicit Q/DQ graph: the one place where precision lives (ADR 27).

Inputs of weighted layers get QuantizeLinear and DequantizeLinear, per tensor; weights become
quantized values with one scale a tensor, an output channel or a block of inputs, behind a
DequantizeLinear. Nothing is put on outputs: that is what ruins the usual defaults.
"""

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from infra.engine_options.accuracy_level import ask_for_integers
from infra.errors import BadInput
from tasks.graphs.integer_regions import SUFFIX, mark_floats
from tasks.graphs.short_floats import in_type_of, shortened
from tasks.graphs.sites import Layer, Site
from tasks.graphs.weights import constant_values, constants_for
from tasks.numerics.block_floats import BlockQuantizer
from tasks.numerics.formats import SMALLEST, NumberFormat
from tasks.numerics.quantized_weight import QuantizedWeight
from tasks.numerics.quantizer import Quantizer
from tasks.observation.scales import Scales, check_scales
from tasks.quantization.graph.block_floats import functions
from tasks.quantization.graph.block_floats.weights import restored_blocks
from tasks.quantization.graph.plan import CastSite, GraphPlan, QuantizedSite
from tasks.quantization.graph.recurrent import quantize_recurrent

_STORED = {
    NumberFormat.INT8: np.int8,
    NumberFormat.INT4: ml_dtypes.int4,
    NumberFormat.INT2: ml_dtypes.int2,
    NumberFormat.FP8: ml_dtypes.float8_e4m3fn,
    NumberFormat.FP4: ml_dtypes.float4_e2m1fn,
}
_SHORT = {NumberFormat.FP16: TensorProto.FLOAT16, NumberFormat.BF16: TensorProto.BFLOAT16}
_SHORT_TYPES = {NumberFormat.FP16: np.float16, NumberFormat.BF16: ml_dtypes.bfloat16}
_NEEDS = {
    NumberFormat.INT2: (25, 13),
    NumberFormat.INT4: (21, 10),
    NumberFormat.FP8: (21, 10),
    NumberFormat.FP4: (23, 11),
}
"""First opset and IR version whose DequantizeLinear reads the format."""
_BLOCKS_NEED = (21, 10)
_SHORT_SCALES_NEED = (19, 9)

Nodes = dict[str, list[onnx.NodeProto]]
NO_BIAS: NDArray[np.float32] = np.zeros((0, 0), np.float32)


def write(plan: GraphPlan) -> onnx.ModelProto:
    """Return the graph that the plan describes.

    Raises `BadInput` when a scale is not a positive finite number.
    """
    check_scales({**plan.scales, **plan.results}, where="the Q/DQ graph")
    writer = _Writer(_raised(plan))
    for item in plan.sites:
        if isinstance(item, CastSite):
            writer.cast(item.site, item.format)
        else:
            writer.quantize(item)
    for name, table in plan.tables.items():
        if isinstance(table, NumberFormat):
            writer.short_table(name, table)
        else:
            writer.table(name, table)
    for tensor, quantizer in plan.results.items():
        writer.result(tensor, quantizer)
    written = mark_floats(writer.finish(), plan.floats, plan.unused)
    written = quantize_recurrent(written, plan.recurrent, in_integers=plan.recurrent_in_integers)
    if plan.int8_products:
        ask_for_integers(written)
    if plan.rest is NumberFormat.FP32:
        return written
    return shortened(written, plan.rest, plan.largest)


def rescale(
    qdq: onnx.ModelProto,
    sites: tuple[Site, ...],
    scales: Scales,
    results: Scales | None = None,
) -> onnx.ModelProto:
    """Return the same Q/DQ graph with new activation scales.

    Weights, placement and smoothing stay (ADR 32). `results` are by tensor; one that is absent
    keeps its scale.

    Raises `BadInput` when a scale is not a positive finite number, or the graph quantizes other
    sites.
    """
    check_scales(scales, where="the Q/DQ graph")
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    wanted = {site.tensor: scales[site.name] for site in sites if site.name in scales}
    present = {
        node.input[1].removesuffix(".scale") for node in copy.graph.node if _fixes_a_site(node)
    }
    of_results = {name for name in present if name.endswith(SUFFIX) and name not in wanted}
    present -= of_results
    if present != set(wanted):
        odd = sorted(present ^ set(wanted))
        raise BadInput(
            f"the Q/DQ graph and the new scales differ in {odd[0]} ({len(odd)} in all): "
            "write a new graph"
        )
    parts = {item.name: item for item in copy.graph.initializer}
    renewed = {f"{name}{SUFFIX}": quantizer for name, quantizer in (results or {}).items()}
    renewed = {name: quantizer for name, quantizer in renewed.items() if name in of_results}
    for tensor, quantizer in {**wanted, **renewed}.items():
        for part in _qparams(tensor, quantizer):
            parts[part.name].CopyFrom(in_type_of(part, parts[part.name]))
    return copy


def _fixes_a_site(node: onnx.NodeProto) -> bool:
    """Tell a site's quantizer from a cache's, which `kv_cache.renew_cache` writes."""
    return bool(node.op_type == "QuantizeLinear" and node.input[1].endswith(".scale"))


def _raised(plan: GraphPlan) -> onnx.ModelProto:
    """Return a copy of the model at the opset that the plan's formats need."""
    quantized = [
        weight for item in plan.sites if isinstance(item, QuantizedSite) for weight in item.weights
    ]
    needs = [_NEEDS.get(weight.format, (0, 0)) for weight in quantized]
    needs += [
        functions.NEEDS[functions.function_name(item.blocks)]
        for item in plan.sites
        if isinstance(item, QuantizedSite) and item.blocks is not None
    ]
    needs += [_BLOCKS_NEED for weight in quantized if weight.block is not None]
    needs += [_SHORT_SCALES_NEED for _ in quantized if plan.rest is not NumberFormat.FP32]
    opset, ir_version = max(needs, default=(0, 0))
    copy = onnx.ModelProto()
    copy.CopyFrom(plan.model)
    present = next(
        (item.version for item in copy.opset_import if item.domain in ("", "ai.onnx")), 0
    )
    if present < opset:
        copy = version_converter.convert_version(copy, opset)
    copy.ir_version = max(copy.ir_version, ir_version)
    return copy


AXES_AS_INPUT = 18
"""The opset from which ReduceMax reads its axes as an input."""


class _Writer:
    """One graph under construction.

    Nodes are collected and put beside their neighbours at the end.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model, self._constant = model, constants_for(model)
        self._graph = model.graph
        self._nodes = {node.name: node for node in model.graph.node}
        self._shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
        self._constants = {
            item.name: constant_values(item)
            for item in model.graph.initializer
            if item.data_type == TensorProto.FLOAT and len(item.dims) == 1
        }
        self._opset = max(
            item.version for item in model.opset_import if item.domain in ("", "ai.onnx")
        )
        self._before: Nodes = {}
        self._after: Nodes = {}
        self._replaced: set[str] = set()

    def quantize(self, item: QuantizedSite) -> None:
        """Put Q/DQ on the site's activation, and quantize the weights of its layers."""
        first = self._before.setdefault(item.site.layers[0].node, [])
        source = self._activation(item, first)
        for place, layer in enumerate(item.site.layers):
            node, weight = self._nodes[layer.node], item.weights[place]
            node.input[0] = source
            node.input[1] = f"{layer.node}.weight.dequantized"
            self._before.setdefault(layer.node, []).extend(self._weight(layer, weight))
            self._replaced.add(layer.weight)
            if item.per_token:
                self._times_range(node, item.site)
            if item.corrections is not None:
                self._correct(node, layer, item.corrections[place])

    def cast(self, site: Site, format: NumberFormat) -> None:
        """Put the site's products in a shorter floating-point format, casts around them."""
        short, source = _SHORT[format], f"{site.tensor}.{format}"
        first = self._before.setdefault(site.layers[0].node, [])
        first.append(
            helper.make_node("Cast", [site.tensor], [source], f"{site.tensor}.cast", to=short)
        )
        for layer in site.layers:
            node = self._nodes[layer.node]
            node.input[0] = source
            for place in range(1, len(node.input)):
                node.input[place] = self._shortened(node.input[place], format)
            result = node.output[0]
            node.output[0] = f"{result}.product.{format}"
            self._after.setdefault(layer.node, []).append(
                helper.make_node(
                    "Cast", [node.output[0]], [result], f"{layer.node}.uncast", to=TensorProto.FLOAT
                )
            )

    def table(self, name: str, table: QuantizedWeight | Layer) -> None:
        """Store an embedding table as quantized values, one scale a row.

        Before every Gather that reads it. A layer's weight that it is too is stored already.
        """
        readers = self._gathers(name)
        axis = next((item.i for item in readers[0].attribute if item.name == "axis"), 0)
        own = f"{name}.table" if axis else name  # a layer may be called as its matrix is
        stored = f"{table.node}.weight" if isinstance(table, Layer) else own
        if isinstance(table, QuantizedWeight):
            self._add(f"{stored}.quantized", np.moveaxis(table.values.astype(np.int8), 0, axis))
            self._add(f"{stored}.scale", table.scales[:, 0])
        parts, restored = [f"{stored}.quantized", f"{stored}.scale"], f"{own}.dequantized"
        dequantize = helper.make_node(
            "DequantizeLinear", parts, [restored], f"{own}.dequantize", axis=axis
        )
        self._before.setdefault(readers[0].name, []).append(dequantize)
        for node in readers:
            node.input[0] = restored
        self._replaced.add(name)

    def short_table(self, name: str, format: NumberFormat) -> None:
        """Store an embedding table in a shorter floating-point format.

        Its rows are restored after they are gathered.
        """
        short = self._shortened(name, format)
        for node in self._gathers(name):
            result = node.output[0]
            node.input[0], node.output[0] = short, f"{result}.read.{format}"
            self._after.setdefault(node.name, []).append(
                helper.make_node(
                    "Cast", [node.output[0]], [result], f"{node.name}.uncast", to=TensorProto.FLOAT
                )
            )

    def result(self, tensor: str, quantizer: Quantizer) -> None:
        """Put a quantizer beside a tensor, which nobody reads before a lowering makes them."""
        name = f"{tensor}{SUFFIX}"
        scale, zero_point = _qparams(name, quantizer)
        self._graph.initializer.extend((scale, zero_point))
        self._beside(tensor).append(
            helper.make_node(
                "QuantizeLinear",
                [tensor, scale.name, zero_point.name],
                [f"{name}.quantized"],
                f"{name}.quantize",
            )
        )

    def finish(self) -> onnx.ModelProto:
        """Return the whole graph, without the constants that nobody reads any more."""
        ordered = []
        for node in self._graph.node:
            ordered += [*self._before.get(node.name, []), node, *self._after.get(node.name, [])]
        del self._graph.node[:]
        self._graph.node.extend(ordered)
        used = {name for node in ordered for name in node.input} | {
            item.name for item in self._graph.output
        }
        initializers = [
            item
            for item in self._graph.initializer
            if item.name not in self._replaced or item.name in used
        ]
        del self._graph.initializer[:]
        self._graph.initializer.extend(initializers)
        functions.define(self._model)
        return self._model

    def _beside(self, tensor: str) -> list[onnx.NodeProto]:
        """Return the nodes that stand next to where the tensor is made, or before all others."""
        for followers in self._after.values():
            if any(tensor in node.output for node in followers):
                return followers
        for node in self._graph.node:
            if tensor in node.output:
                return self._after.setdefault(node.name, [])
        return self._before.setdefault(self._graph.node[0].name, [])

    def _activation(self, item: QuantizedSite, nodes: list[onnx.NodeProto]) -> str:
        """Return the name of what the layers read instead of the site's tensor."""
        name = source = item.site.tensor
        if item.smoothing_scales is not None:
            shape = self._beside_channels(item.site.layers[0])
            self._add(
                f"{name}.smoothing", (1 / item.smoothing_scales).astype(np.float32).reshape(shape)
            )
            source = f"{name}.smoothed"
            nodes.append(
                helper.make_node("Mul", [name, f"{name}.smoothing"], [source], f"{name}.smooth")
            )
        if item.per_token:
            source = self._by_token(name, source, nodes)
        qparams = [f"{name}.scale", f"{name}.zero_point"]
        quantized, restored = f"{name}.quantized", f"{name}.dequantized"
        if item.blocks is not None:
            return self._in_blocks(name, source, item.blocks, nodes)
        if item.dynamic:
            nodes.append(
                helper.make_node(
                    "DynamicQuantizeLinear", [source], [quantized, *qparams], f"{name}.quantize"
                )
            )
        elif item.activation is not None or item.per_token:
            self._graph.initializer.extend(_qparams(name, item.activation or Quantizer(1.0)))
            nodes.append(
                helper.make_node(
                    "QuantizeLinear", [source, *qparams], [quantized], f"{name}.quantize"
                )
            )
        else:
            return source
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [quantized, *qparams], [restored], f"{name}.dequantize"
            )
        )
        return restored

    def _in_blocks(
        self, name: str, source: str, blocks: BlockQuantizer, nodes: list[onnx.NodeProto]
    ) -> str:
        whole, restored = None, f"{name}.dequantized"
        if blocks.tensor_scale is not None:
            whole = f"{name}.scale.scale"
            self._add(whole, np.asarray(blocks.tensor_scale, np.float32))
        rounding = functions.function_name(blocks)
        nodes.append(functions.call(rounding, source, restored, f"{name}.quantize", whole))
        return restored

    def _by_token(self, name: str, source: str, nodes: list[onnx.NodeProto]) -> str:
        """Divide each row by its largest magnitude; what the layers return is multiplied by it."""
        magnitudes, largest = f"{name}.magnitudes", f"{name}.largest"
        ranges, divided = f"{name}.token_range", f"{name}.of_token"
        self._add(f"{name}.least_range", np.asarray(SMALLEST, np.float32))
        axis: list[str] = []
        options = {"axes": [-1]} if self._opset < AXES_AS_INPUT else {}
        if not options:
            axis = [f"{name}.token_axis"]
            self._add(axis[0], np.asarray([-1], np.int64))
        reduced = [magnitudes, *axis]
        nodes += [
            helper.make_node("Abs", [source], [magnitudes], f"{name}.magnitude"),
            helper.make_node("ReduceMax", reduced, [largest], f"{name}.range_of_token", **options),
            helper.make_node(
                "Max", [largest, f"{name}.least_range"], [ranges], f"{name}.no_range_of_zero"
            ),
            helper.make_node("Div", [source, ranges], [divided], f"{name}.divide_by_range"),
        ]
        return divided

    def _times_range(self, node: onnx.NodeProto, site: Site) -> None:
        result = node.output[0]
        node.output[0] = f"{result}.per_token"
        self._after.setdefault(node.name, []).append(
            helper.make_node(
                "Mul",
                [node.output[0], f"{site.tensor}.token_range"],
                [result],
                f"{node.name}.times_range",
            )
        )

    def _weight(self, layer: Layer, weight: QuantizedWeight) -> list[onnx.NodeProto]:
        """Store quantized values in the layout of the layer's own weight.

        And return the nodes that restore them.
        """
        name = f"{layer.node}.weight"
        stored = weight.values.astype(_STORED[weight.format])
        self._add(
            f"{name}.quantized", np.moveaxis(stored.reshape(weight.shape), 0, layer.output_axis)
        )
        if weight.block is not None and not weight.format.is_integer:
            nodes, constants = restored_blocks(name, layer, weight)
            for constant, numbers in constants.items():
                self._add(constant, numbers)
            return nodes
        inputs, options = [f"{name}.quantized", f"{name}.scale", f"{name}.zero_point"], {}
        zero_points = (
            np.zeros(weight.scales.shape, np.int8)
            if weight.zero_points is None
            else weight.zero_points
        )
        scales, zeros = weight.scales, zero_points
        if weight.block is not None:
            options = {"axis": 1 - layer.output_axis, "block_size": weight.block}
            if layer.output_axis == 1:
                scales, zeros = scales.T, zeros.T
        elif weight.scales.size > 1 or len(weight.values) == 1:
            options = {"axis": layer.output_axis}
            scales, zeros = scales.reshape(-1), zeros.reshape(-1)
        else:
            scales, zeros = scales.reshape(()), zeros.reshape(())
        self._add(f"{name}.scale", scales)
        self._add(
            f"{name}.zero_point",
            zeros.astype(_STORED[weight.format]),
        )
        return [
            helper.make_node(
                "DequantizeLinear", inputs, [f"{name}.dequantized"], f"{name}.dequantize", **options
            )
        ]

    def _correct(self, node: onnx.NodeProto, layer: Layer, correction: NDArray[np.float32]) -> None:
        """Add a constant per output channel to what the layer returns: in its bias, or behind it.

        Runtimes fuse a layer with its bias, and another addition behind a convolution keeps that in
        floating point.
        """
        name = f"{layer.node}.correction"
        holder, place = self._bias_of(node)
        if holder is not None:
            self._add(name, (self._constants[holder.input[place]] + correction).astype(np.float32))
            holder.input[place] = name
        elif node.op_type in ("Conv", "Gemm") and not any(node.input[2:]):
            self._add(name, correction.astype(np.float32))
            node.input[2:] = [name]
        else:
            self._add_behind(node, name, correction.reshape(self._beside_channels(layer)))

    def _bias_of(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto | None, int]:
        """Return the node that adds the layer's own bias, and the place of that among its inputs.

        That is the layer itself, or an Add that alone reads a MatMul.
        """
        if node.op_type in ("Conv", "Gemm"):
            return (
                (node, 2) if len(node.input) > 2 and node.input[2] in self._constants else (None, 0)
            )
        readers = [item for item in self._graph.node if node.output[0] in item.input]
        if len(readers) == 1 and readers[0].op_type == "Add":
            place = 1 - list(readers[0].input).index(node.output[0])
            if self._constants.get(readers[0].input[place], NO_BIAS).ndim == 1:
                return readers[0], place
        return None, 0

    def _add_behind(self, node: onnx.NodeProto, name: str, correction: NDArray[np.float32]) -> None:
        self._add(name, correction.astype(np.float32))
        result = node.output[0]
        node.output[0] = f"{result}.uncorrected"
        self._after.setdefault(node.name, []).append(
            helper.make_node("Add", [node.output[0], name], [result], f"{node.name}.correct")
        )

    def _beside_channels(self, layer: Layer) -> tuple[int, ...]:
        """Return the shape in which one value a channel meets what the layer reads or returns."""
        return (
            (1, -1, *[1] * (len(self._shapes[layer.weight]) - 2)) if layer.op == "Conv" else (-1,)
        )

    def _gathers(self, table: str) -> list[onnx.NodeProto]:
        return [
            node for node in self._graph.node if node.op_type == "Gather" and node.input[0] == table
        ]

    def _shortened(self, constant: str, format: NumberFormat) -> str:
        """Store the layer's weight or bias in the short format.

        Beside the long one until nobody reads that.
        """
        if not constant:
            return constant
        name = f"{constant}.{format}"
        present = {item.name: item for item in self._graph.initializer}
        if name not in present:
            self._add(name, constant_values(present[constant]).astype(_SHORT_TYPES[format]))
        self._replaced.add(constant)
        return name

    def _add(self, name: str, values: NDArray[np.generic]) -> None:
        self._graph.initializer.append(self._constant(values, name))


def _qparams(tensor: str, quantizer: Quantizer) -> tuple[onnx.TensorProto, onnx.TensorProto]:
    """Return scale and zero-point of an activation; the zero-point's type says the format."""
    zero = np.asarray(
        quantizer.zero_point,
        ml_dtypes.float8_e4m3fn if quantizer.format is NumberFormat.FP8 else np.int8,
    )
    return (
        numpy_helper.from_array(np.asarray(quantizer.scale, np.float32), f"{tensor}.scale"),
        numpy_helper.from_array(zero, f"{tensor}.zero_point"),
    )
