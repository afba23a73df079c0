"""A graph run step by step, so that its constants may be changed on the way.

Each step goes on from tensors that earlier ones kept: all of them together cost little more than
one pass. Steps are cut where it does not change which kernels run, at quantized values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from infra.engines import open_target
from infra.engines.port import Arrays
from tasks.graphs.canonical.editing import body_reads

Values = list[NDArray[Any]]
"""One tensor of every case."""
Visit = Callable[[str, Values], Values]
"""From a tensor's name and its values to those that the next steps read."""


@dataclass(frozen=True, slots=True, eq=False)
class PartialRun:
    """What is run up to one tensor."""

    end: str
    nodes: tuple[onnx.NodeProto, ...]
    reads: tuple[str, ...]  # the caller's, or kept by earlier steps
    keeps: tuple[str, ...]


def plan_steps(
    graph: onnx.GraphProto, ends: Sequence[str], cuts: Collection[str]
) -> tuple[PartialRun, ...]:
    """Return the steps to each of these tensors, in their order.

    Args:
        graph: Its nodes in order, as ONNX demands it.
        ends: Tensors, each behind those that it follows from.
        cuts: Tensors that are kept as soon as a step has made them.
    """
    makers = {name: node for node in graph.node for name in node.output}
    order = {node.output[0]: place for place, node in enumerate(graph.node)}
    constants = {item.name for item in graph.initializer}
    kept = {item.name for item in graph.input} - constants
    steps = []
    for end in ends:
        nodes: dict[int, onnx.NodeProto] = {}
        reads: set[str] = set()
        waiting = [end]
        while waiting:
            name = waiting.pop()
            if name in constants:
                continue
            if name in kept:
                reads.add(name)
                continue
            node = makers[name]
            if order[node.output[0]] not in nodes:
                nodes[order[node.output[0]]] = node
                waiting += [*filter(None, node.input), *body_reads(node)]
        ordered = tuple(nodes[place] for place in sorted(nodes))
        keeps = {name for node in ordered for name in node.output} & set(cuts)
        steps.append(PartialRun(end, ordered, tuple(sorted(reads)), tuple(sorted(keeps))))
        kept |= keeps
    return tuple(steps)


def run_steps(
    model: onnx.ModelProto,
    steps: Sequence[PartialRun],
    cases: Sequence[Arrays],
    visit: Visit,
) -> None:
    """Run the steps on every case, and show the caller the tensor that each ends in.

    Args:
        model: As ONNX Runtime takes it. The caller may change its constants on the way: a step
            reads them as they are then.
        steps: As `plan_steps` returns them for its graph.
        cases: Feeds, one mapping a case.
        visit: What it returns is kept, where the tensor is among the cuts.
    """
    last = {name: place for place, step in enumerate(steps) for name in step.reads}
    values: list[dict[str, NDArray[Any]]] = [dict(feeds) for feeds in cases]
    for place, step in enumerate(steps):
        wanted = [name for name in step.keeps if last.get(name, -1) > place and name != step.end]
        made: Values
        if step.nodes:
            part = _model(model, step, [step.end, *wanted], values[0])
            engine = open_target("onnxruntime-cpu").load(part)
            made = []
            for case in values:
                outputs = engine.run({name: case[name] for name in step.reads})
                made.append(outputs.pop(step.end))
                case.update(outputs)
        else:
            made = [case[step.end] for case in values]
        revised = visit(step.end, made)
        if last.get(step.end, -1) > place:
            for case, value in zip(values, revised, strict=True):
                case[step.end] = value
        for name in [name for name in values[0] if last.get(name, -1) <= place]:
            for case in values:
                del case[name]


def _model(
    model: onnx.ModelProto,
    step: PartialRun,
    outputs: Sequence[str],
    values: Mapping[str, NDArray[Any]],
) -> bytes:
    """Return one step as a model, its inputs of the types that their values have."""
    read = {name for node in step.nodes for name in (*node.input, *body_reads(node))}
    graph = helper.make_graph(
        step.nodes,
        "step",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.asarray(values[name]).dtype), None
            )
            for name in step.reads
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [item for item in model.graph.initializer if item.name in read],
    )
    single = helper.make_model(
        graph,
        opset_imports=model.opset_import,
        functions=list(model.functions),
        ir_version=model.ir_version,
    )
    return bytes(single.SerializeToString())
