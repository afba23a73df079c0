"""Every recipe on one layer of each kind.

The graph computes what its parts say, on the real runtime.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tasks.numerics.block_floats import fake_quantize_blocks
from tasks.numerics.formats import NumberFormat
from tasks.numerics.quantizer import fake_quantize
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.plan import CastSite, QuantizedSite
from tasks.quantization.pipeline.derive import Derived, derive
from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import PerToken
from tasks.quantization.recipe.targets import ONNXRUNTIME, why_not
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

Floats = NDArray[np.float32]
RNG = np.random.default_rng(5)
ROWS = (RNG.standard_normal((64, 96)) * RNG.lognormal(0, 1, 96)).astype(np.float32)
WEIGHT = (RNG.standard_normal((96, 24)) / 10).astype(np.float32)
IMAGES = RNG.standard_normal((8, 3, 6, 6)).astype(np.float32)
KERNEL = RNG.standard_normal((5, 3, 2, 2)).astype(np.float32)

LAYERS = {
    "MatMul": (graphs.product(WEIGHT), ROWS),
    "Gemm": (graphs.gemm(WEIGHT, transposed=False), ROWS),
    "Gemm-transposed": (graphs.gemm(WEIGHT.T.copy(), transposed=True), ROWS),
    "Conv": (graphs.convolution(KERNEL), IMAGES),
}
NAMES = [
    name
    for name, recipe in RECIPES.items()
    if recipe.quantized
    and not recipe.starts_from_champion
    and not recipe.high_precision_sites
    and not isinstance(recipe.activation, PerToken)  # fixes nothing: test_derive.py has it
]
# Weight-only products run on kernels that round the activation to 8 bits themselves, a block at a
# time.
TOLERANCE = {"int4": 0.02, "int2": 0.02, "fp16": 2e-3, "bf16": 2e-2}


def expected(model: onnx.ModelProto, found: Derived, x: Floats) -> Floats:
    """Run the full-precision graph on what the quantizer lets through.

    Its weights are as they are stored.
    """
    (item,) = found.plan.sites
    if isinstance(item, CastSite):
        return graphs.run(model, x)
    copy = onnx.ModelProto()
    copy.CopyFrom(found.plan.model)
    smoothing_scales = np.float32(1) if item.smoothing_scales is None else item.smoothing_scales
    stored = item.weights[0].dequantized()
    layer = item.site.layers[0]
    for constant in copy.graph.initializer:
        if constant.name == layer.weight:
            values = np.ascontiguousarray(np.moveaxis(stored, 0, layer.output_axis))
            constant.CopyFrom(onnx.numpy_helper.from_array(values, constant.name))
    return graphs.run(copy, let_through(item, x / smoothing_scales)) + correction(item, layer.op)


def let_through(item: QuantizedSite, x: Floats) -> Floats:
    if item.dynamic:
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = (high - low) / 255
        zero = round(-low / scale)
        return ((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale).astype(np.float32)
    if item.blocks is not None:
        return fake_quantize_blocks(x, item.blocks)
    return x if item.activation is None else fake_quantize(x, item.activation)


def correction(item: QuantizedSite, op: str) -> Floats:
    if item.corrections is None:
        return np.zeros(1, np.float32)
    return item.corrections[0].reshape((1, -1, 1, 1) if op == "Conv" else (-1,))


def runnable(recipe: Recipe) -> bool:
    return why_not(recipe, ONNXRUNTIME) is None


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", [name for name in NAMES if runnable(RECIPES[name])])
def test_a_layer_computes_what_its_quantizer_and_its_levels_say(name: str, kind: str) -> None:
    model, x = LAYERS[kind]
    sites, observed = observe(model, x)
    found = derive(model, sites, observed, RECIPES[name], None)
    graph = qdq.write(found.plan)
    onnx.checker.check_model(graph, full_check=True)
    wanted = expected(model, found, x)
    limit = (
        0.02
        if name in ("int8-dynamic", "int8-weights")
        else TOLERANCE.get(name.split("-")[0], 1e-4)
    )
    assert np.abs(graphs.run(lower(graph, "u8"), x) - wanted).max() <= limit * np.abs(wanted).max()


@pytest.mark.parametrize("name", NAMES)
def test_fewer_bits_make_a_smaller_graph(name: str) -> None:
    model = graphs.product(RNG.standard_normal((512, 256)).astype(np.float32))
    sites, observed = observe(model, RNG.standard_normal((8, 512)).astype(np.float32))
    recipe = RECIPES[name]
    size = qdq.write(derive(model, sites, observed, recipe, None).plan).ByteSize()
    share = {NumberFormat.FP8: 8, NumberFormat.FP16: 16, NumberFormat.BF16: 16}.get(
        recipe.weights.format, recipe.weights.format.bits
    ) / 32
    assert size < (share + 0.05) * model.ByteSize()


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_a_product_that_reads_another_or_a_table_gets_names_of_its_own(name: str) -> None:
    first, second = (RNG.standard_normal((8, 8)).astype(np.float32) for _ in range(2))
    model = graphs.model(
        [
            onnx.helper.make_node("Gather", ["table", "ids"], ["rows"], "gather"),
            onnx.helper.make_node("MatMul", ["rows", "a"], ["h"], "first"),
            onnx.helper.make_node("MatMul", ["h", "b"], ["x.out"], "second"),
            onnx.helper.make_node("Add", ["x.out", "x"], ["y"], "add"),
        ],
        {
            "table": RNG.standard_normal((600, 8)).astype(np.float32),
            "ids": np.asarray([1, 2]),
            "a": first,
            "b": second,
        },
        {"x": [2, 8]},
        {"y": [2, 8]},
    )
    x = RNG.standard_normal((2, 8)).astype(np.float32)
    sites, observed = observe(model, x)
    graph = qdq.write(derive(model, sites, observed, RECIPES[name], None).plan)
    onnx.checker.check_model(graph, full_check=True)
