"""What ONNX Runtime's own profile tells of a graph: which multiply-accumulates ran in integers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from infra.engines.port import Arrays

_INTEGER = {
    "QLinearConv": 3,
    "QGemm": 3,
    "QLinearMatMul": 3,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulInteger": 1,
    "ConvInteger": 1,
}
"""Operator -> the place of its weight."""
_FLOAT = {
    "Conv": 1,
    "FusedConv": 1,
    "Gemm": 1,
    "FusedGemm": 1,
    "MatMul": 1,
    "FusedMatMul": 1,
    "ConvTranspose": 1,
}


def integer_fraction(plan: bytes, feeds: Arrays) -> float:
    """Return the fraction of a run's multiply-accumulates that kernels of 8-bit integers did, 0..1.

    Products of two activations count among the rest.
    """
    with tempfile.TemporaryDirectory() as folder:
        events, optimized = _profiled(plan, feeds, Path(folder))
    nodes = {node.name: node for node in optimized.graph.node}
    widths = {item.name: tuple(item.dims) for item in optimized.graph.initializer}
    integers = floats = 0
    for name, arguments in events:
        kernel = arguments["op_name"]
        place = _INTEGER.get(kernel, _FLOAT.get(kernel))
        if place is None or name not in nodes:
            continue
        shapes = [tuple(next(iter(item.values()))) for item in arguments["input_type_shape"]]
        (output,) = [tuple(next(iter(item.values()))) for item in arguments["output_type_shape"]]
        count = _products(kernel, output, shapes, widths.get(nodes[name].input[place]))
        integers += count * (kernel in _INTEGER)
        floats += count * (kernel in _FLOAT)
    return integers / max(integers + floats, 1)


def _products(
    kernel: str,
    output: Sequence[int],
    shapes: Sequence[Sequence[int]],
    weight: Sequence[int] | None,
) -> int:
    if "Conv" not in kernel:  # a matrix product sums over the last axis of what it reads
        return prod(output) * shapes[0][-1]
    if weight is None:
        return 0
    if kernel == "ConvTranspose":
        return prod(shapes[0]) * prod(weight[1:])
    return prod(output) * prod(weight[1:])


def _profiled(
    plan: bytes, feeds: Arrays, folder: Path
) -> tuple[Iterator[tuple[str, Mapping[str, Any]]], onnx.ModelProto]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = ort.InferenceSession(plan, options, providers=["CPUExecutionProvider"])
    session.run(None, dict(feeds))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    suffix = "_kernel_time"
    runs = (
        (item["name"].removesuffix(suffix), item["args"])
        for item in events
        if item.get("cat") == "Node" and item["name"].endswith(suffix)
    )
    return runs, onnx.load(folder / "optimized.onnx")
