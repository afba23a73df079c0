"""A table that is embedding and output layer is stored once: as the product multiplies by it.

The embedding then picks columns of [width, words], and turns the few that it picked. So the product
stays one of a plain matrix, which every recipe, runtime and builder takes.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper
from torch import nn


def tied_tables(module: nn.Module) -> dict[str, str]:
    """Return table -> matrix, of parameters [words, width] that are others [width, words], turned.

    They are that where both are the same memory: equal numbers of two tensors are two tables.
    """
    matrices = {name: item for name, item in module.named_parameters() if item.dim() == 2}
    plain = {item.data_ptr(): name for name, item in matrices.items() if item.is_contiguous()}
    pairs = {
        name: plain[item.data_ptr()]
        for name, item in matrices.items()
        if not item.is_contiguous() and item.data_ptr() in plain
    }
    return {
        table: matrix
        for table, matrix in pairs.items()
        if matrices[table].T.shape == matrices[matrix].shape
    }


def share_tables(model: onnx.ModelProto, tied: Mapping[str, str]) -> frozenset[str]:
    """Let embeddings read the matrix that their table is tied to.

    Args:
        model: A graph as torch exported it, with or without its weights; it is changed.
        tied: As `tied_tables`.

    Returns:
        Tables that nobody reads any more. Others are read otherwise than by rows.
    """
    graph = model.graph
    ranks = {
        item.name: len(item.type.tensor_type.shape.dim)
        for item in (*graph.input, *graph.value_info)
    }
    readers: dict[str, list[onnx.NodeProto]] = {table: [] for table in tied}
    for node in graph.node:
        for name in readers.keys() & set(node.input):
            readers[name].append(node)
    shared = {
        table
        for table, nodes in readers.items()
        if all(_reads_rows(node, table) and node.input[1] in ranks for node in nodes)
    }
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.input and node.input[0] in shared:
            nodes.append(_turned(node, tied[node.input[0]], ranks[node.input[1]]))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    kept = [item for item in graph.initializer if item.name not in shared]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)
    return frozenset(shared)


def _reads_rows(node: onnx.NodeProto, table: str) -> bool:
    axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
    return node.op_type == "Gather" and node.input[0] == table and axis == 0


def _turned(node: onnx.NodeProto, matrix: str, rank: int) -> onnx.NodeProto:
    """Let a Gather of rows pick columns of a matrix, and return what makes rows of these.

    Places [..., rank axes] -> [width, ...] -> [..., width].
    """
    result = node.output[0]
    node.input[0], node.output[0] = matrix, f"{result}.columns"
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))
    order = [*range(1, rank + 1), 0]
    return helper.make_node(
        "Transpose", [node.output[0]], [result], f"{node.name}.turned", perm=order
    )
