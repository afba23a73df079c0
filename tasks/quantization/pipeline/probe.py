"""Asks a target's builder, by a small graph, whether a recipe's formats build for its device.

A parser's yes is no evidence: FP8 below Ada, 4-bit weights on Turing and products of float32 there
parse, and then fail to build. What no device takes is in `tasks.quantization.recipe.targets`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from infra.engines import open_target
from infra.engines.port import Shapes
from infra.errors import Refused, Unavailable
from infra.settings import settings
from tasks.graphs.sites import Site, find_sites
from tasks.numerics.formats import NumberFormat
from tasks.observation.observer import Observer
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import (
    Cast,
    HighPrecision,
    Nearest,
    PerBlockOfToken,
    PerToken,
)
from tasks.quantization.recipe.targets import ONNXRUNTIME, why_not

_WIDTH, _ROWS, _SIZE = 256, 16, 8
_ASKED = ("MatMul", "Conv")


def builder_question(sites: Sequence[Site]) -> Callable[[Recipe, str], str | None]:
    """Return what says why a recipe does not go with a target, for layers of a model's kinds."""
    kinds = {layer.op for site in sites for layer in site.layers}
    convolves = kinds & {"Conv", "ConvTranspose"}
    asked = tuple(
        op for op in _ASKED if (convolves if op == "Conv" else kinds - {"Conv", "ConvTranspose"})
    )
    return lambda recipe, target: why_not(recipe, target) or _refusal(recipe, target, asked)


def _refusal(recipe: Recipe, target: str, asked: Sequence[str]) -> str | None:
    """Return the builder's words about the first kind of layer that it refuses."""
    if not recipe.quantized or recipe.starts_from_champion or target == ONNXRUNTIME:
        return None
    device = settings().tensorrt_rtx_capability
    # Convolutions have neither a range a token nor floats in blocks.
    of_rows = isinstance(recipe.activation, PerToken | PerBlockOfToken)
    kinds = [op for op in asked if op == "MatMul" or not of_rows]
    words = (_asked_once(_formats(recipe), target, op, device) for op in kinds)
    return next((text for text in words if text is not None), None)


def _formats(recipe: Recipe) -> Recipe:
    """Return the recipe without what changes no format: recipes that then are equal ask once."""
    short = recipe.rest is not NumberFormat.FP32
    whole = isinstance(recipe.weights, Cast) and short
    return replace(
        recipe,
        name="a probe",
        summary="",
        smoothing=None,
        rounding=Nearest(),
        bias_correction=False,
        tables=NumberFormat.FP32,
        head=None,
        kv_cache=NumberFormat.FP32,
        high_precision=HighPrecision(0, recipe.rest) if short or whole else None,
        version=0,
    )


@lru_cache(maxsize=256)
def _asked_once(recipe: Recipe, target: str, op: str, device: str) -> str | None:
    """Build one layer; `device` is what plans are built for where none is visible."""
    try:
        opened = open_target(target)
        graph = lower(_probe(recipe, op), opened.form)
        rank = len(graph.graph.input[0].type.tensor_type.shape.dim)
        shape = tuple((_WIDTH,) if rank == 2 else (_ROWS, _SIZE, _SIZE))
        profile = {"x": Shapes((1, *shape), (4, *shape), (8, *shape))}
        opened.build(graph.SerializeToString(), profile)
    except Refused as exc:
        return f"{target} does not build {op} layers of its formats for {device}: {exc}"
    except Unavailable:
        return None  # nobody to ask
    return None


def _probe(recipe: Recipe, op: str) -> onnx.ModelProto:
    """Return one layer in the recipe's formats, on noise."""
    rng = np.random.default_rng(0)
    model = _layer(op, rng)
    shape = (_ROWS, _WIDTH) if op == "MatMul" else (_ROWS, _ROWS, _SIZE, _SIZE)
    sites = find_sites(model)
    observer = Observer(sites)
    observer.update({"x": rng.standard_normal(shape).astype(np.float32)}, np.arange(_ROWS))
    return qdq.write(derive(model, sites, observer.result(), recipe, None).plan)


def _layer(op: str, rng: np.random.Generator) -> onnx.ModelProto:
    shape: tuple[int, ...] = (_WIDTH, 64) if op == "MatMul" else (_ROWS, _ROWS, 3, 3)
    weight = numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), "w")
    source = ["batch", _WIDTH] if op == "MatMul" else ["batch", _ROWS, _SIZE, _SIZE]
    result = ["batch", 64] if op == "MatMul" else ["batch", _ROWS, _SIZE - 2, _SIZE - 2]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], "layer")],
        "probe",
        [value("x", TensorProto.FLOAT, source)],
        [value("y", TensorProto.FLOAT, result)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
