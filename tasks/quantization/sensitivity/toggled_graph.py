"""One graph in which every part can be quantized by itself.

What a part costs is then one run, not one more engine.

A part's nodes stand in an If: one branch is full precision, the other what the Q/DQ writer makes of
the part. Only the branch that is taken is computed, so a run costs about what one pass of the
full-precision graph costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from tasks.numerics.quantized_weight import QuantizedWeight, WeightScheme, quantize
from tasks.quantization.graph import qdq
from tasks.quantization.graph.assemble import Table, find_tables, table_rows
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.norms import norm_results
from tasks.quantization.graph.plan import GraphPlan
from tasks.quantization.recipe.submodules import EMBEDDINGS, NORMS, SCORES

INPUT = "requant.toggles"
"""Name of the added input, bool [parts]: which parts are quantized in this run."""


@dataclass(frozen=True, slots=True)
class QuantizedPart:
    """What one toggle quantizes."""

    name: str  # a site's, an embedding table's, of a product of two activations, or "norms"
    results: tuple[str, ...]  # tensors that its nodes make
    submodule: str | None = None  # None: a site, which the caller knows


@dataclass(frozen=True, slots=True, eq=False)
class ToggledGraph:
    """A graph and its toggles, in the order of the input's elements."""

    graph: onnx.ModelProto
    parts: tuple[QuantizedPart, ...]


def install(plan: GraphPlan, *, others: bool) -> ToggledGraph:
    """Add a toggle for every site of the plan, and with `others` for what recipes leave alone.

    The others run at INT8. They are embedding tables (one scale a row), products of two activations
    (attention scores, and mixing by them; ranges of each batch) and what all norms return
    (likewise, one toggle). The plan's model must be the full-precision graph with nothing folded
    into it.
    """
    model = plan.model
    rounded = [*_products(model), *_norms(model)] if others else []
    tables = find_tables(model) if others else ()
    quantized = lower(qdq.write(GraphPlan(model, plan.sites, _int8(model, tables))), "u8")
    for part in rounded:
        for result in part.results:
            _round_at_run_time(quantized.graph, result, outputs=part.submodule == NORMS)
    gathers = [
        QuantizedPart(table.name, tuple(_gathered(model, table.name)), EMBEDDINGS)
        for table in tables
    ]
    nodes = {node.name: node for node in model.graph.node}
    sites = [
        QuantizedPart(
            planned.site.name, tuple(nodes[layer.node].output[0] for layer in planned.site.layers)
        )
        for planned in plan.sites
    ]
    parts = (*sites, *rounded, *gathers)
    return ToggledGraph(_merge(model, quantized, parts), parts)


def _products(model: onnx.ModelProto) -> list[QuantizedPart]:
    """Return matrix products of two activations."""
    constants = {item.name for item in model.graph.initializer}
    return [
        QuantizedPart(node.name, (node.output[0],), SCORES)
        for node in model.graph.node
        if node.op_type == "MatMul" and not constants & set(node.input)
    ]


def _norms(model: onnx.ModelProto) -> list[QuantizedPart]:
    results = norm_results(model)
    return [QuantizedPart(NORMS, results, NORMS)] if results else []


def _int8(model: onnx.ModelProto, tables: Sequence[Table]) -> dict[str, QuantizedWeight]:
    return {table.name: quantize(table_rows(model, table), WeightScheme()) for table in tables}


def _gathered(model: onnx.ModelProto, table: str) -> Iterator[str]:
    return (
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[0] == table
    )


def _round_at_run_time(graph: onnx.GraphProto, result: str, *, outputs: bool) -> None:
    """Round to INT8 and back, out of range by batch, on what the node reads.

    Or on what it returns.
    """
    node = next(item for item in graph.node if result in item.output)
    if outputs:
        node.output[0] = f"{result}.exact"
        graph.node.extend(_rounded(f"{result}.exact", result))
        return
    for place, source in enumerate(node.input):
        node.input[place] = f"{node.name}.{place}.rounded"
        graph.node.extend(_rounded(source, node.input[place]))


def _rounded(source: str, result: str) -> list[onnx.NodeProto]:
    names = [f"{result}.rounding.{part}" for part in ("levels", "scale", "zero_point")]
    return [
        helper.make_node("DynamicQuantizeLinear", [source], names, f"{result}.rounding.quantize"),
        helper.make_node("DequantizeLinear", names, [result], f"{result}.rounding.dequantize"),
    ]


def _merge(
    model: onnx.ModelProto, quantized: onnx.ModelProto, parts: Sequence[QuantizedPart]
) -> onnx.ModelProto:
    """Return the full-precision graph, every part's nodes replaced by a choice between both."""
    merged = onnx.ModelProto()
    merged.CopyFrom(_at_opset_of(quantized, model))
    graph, branches = merged.graph, _Branches(merged.graph, quantized.graph)
    places = {result: place for place, part in enumerate(parts) for result in part.results}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.output[0] not in places:
            nodes.append(node)
            continue
        result, index = node.output[0], f"{node.output[0]}.toggle"
        graph.initializer.append(
            numpy_helper.from_array(np.asarray(places[result], np.int64), f"{index}.place")
        )
        nodes.append(
            helper.make_node("Gather", [INPUT, f"{index}.place"], [index], f"{index}.read")
        )
        nodes.append(
            helper.make_node(
                "If",
                [index],
                [result],
                f"{index}.choose",
                then_branch=branches.quantized(result),
                else_branch=branches.exact(node),
            )
        )
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.BOOL, [len(parts)]))
    del graph.value_info[:]
    return merged


def _at_opset_of(quantized: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model as the writer raised it for formats that need a newer opset."""
    wanted, present = (
        next(item.version for item in graph.opset_import if item.domain in ("", "ai.onnx"))
        for graph in (quantized, model)
    )
    raised = model if wanted == present else version_converter.convert_version(model, wanted)
    raised.ir_version = quantized.ir_version
    return raised


class _Branches:
    """Sub-graphs that read the full-precision graph's own tensors."""

    def __init__(self, exact: onnx.GraphProto, quantized: onnx.GraphProto) -> None:
        self._known = {name for node in exact.node for name in node.output}
        self._known |= {item.name for item in (*exact.input, *exact.initializer)}
        self._makers = {name: node for node in quantized.node for name in node.output}
        self._constants = {item.name: item for item in quantized.initializer}

    def exact(self, node: onnx.NodeProto) -> onnx.GraphProto:
        """Return the node as it is."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.output[0] = f"{node.output[0]}.full"
        return _graph([copy], copy.output[0], [])

    def quantized(self, result: str) -> onnx.GraphProto:
        """Return every quantized node between full precision's tensors and this result."""
        nodes: dict[str, onnx.NodeProto] = {}
        constants: dict[str, onnx.TensorProto] = {}
        self._collect(result, result, nodes, constants)
        own = {name: f"{result}/{name}" for node in nodes.values() for name in node.output}
        own |= {name: f"{result}/{name}" for name in constants}
        for node in nodes.values():
            node.name = f"{result}/{node.name}"
            node.input[:] = [own.get(name, name) for name in node.input]
            node.output[:] = [own[name] for name in node.output]
        for name, item in constants.items():
            item.name = own[name]
        return _graph(list(nodes.values()), own[result], list(constants.values()))

    def _collect(
        self,
        name: str,
        result: str,
        nodes: dict[str, onnx.NodeProto],
        constants: dict[str, onnx.TensorProto],
    ) -> None:
        """Collect what makes a tensor, its makers first."""
        if not name or (name in self._known and name != result):
            return
        if name in self._constants:
            constants[name] = onnx.TensorProto()
            constants[name].CopyFrom(self._constants[name])
            return
        node = self._makers[name]
        if node.output[0] in nodes:
            return
        for source in node.input:
            self._collect(source, result, nodes, constants)
        nodes[node.output[0]] = onnx.NodeProto()
        nodes[node.output[0]].CopyFrom(node)


def _graph(
    nodes: Sequence[onnx.NodeProto], result: str, constants: Sequence[onnx.TensorProto]
) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
    return helper.make_graph(list(nodes), f"{result}.branch", [], [output], list(constants))
