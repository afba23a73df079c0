"""INT8 with FP16 for the rest, of a real detector: built, in INT8 kernels, and next to float32."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from infra.engines import open_target
from infra.engines.port import Shapes
from tasks.graphs.canonical.passes import make_canonical
from tasks.graphs.multiply_accumulates import layer_products
from tasks.graphs.short_floats import float32_nodes
from tasks.graphs.sites import expose, find_sites
from tasks.observation.observer import Observer
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.candidate import CalibrationEvidence, quantize
from tasks.quantization.recipe.catalog import RECIPES
from tasks.records import Verdict
from tasks.validation.precision import asked_for, precision_gate
from tests import graphs

pytest.importorskip("tensorrt_rtx")
SIZE = 160
Floats = NDArray[np.float32]


def page() -> Floats:
    """Return lines of text as the detector reads them, [1, 3, size, size]."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(image)
    for line in range(6):
        draw.text((8, 10 + 24 * line), f"line {line} of some text", fill="black")
    pixels = (np.asarray(image, np.float32) / 255 - 0.45) / 0.225
    return pixels.transpose(2, 0, 1)[None]


def detector() -> onnx.ModelProto:
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is None or package.origin is None:
        pytest.skip("rapidocr-onnxruntime is not installed")
    path = Path(package.origin).parent / "models" / "ch_PP-OCRv4_det_infer.onnx"
    return make_canonical(onnx.load(path), where=path.name)


def run(model: onnx.ModelProto, feeds: Mapping[str, Floats]) -> dict[str, Floats]:
    options = graphs.ort.SessionOptions()
    options.graph_optimization_level = graphs.ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = graphs.ort.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def test_a_detector_runs_its_products_in_int8_and_the_rest_in_fp16() -> None:
    model, x = detector(), page()
    (source,) = (item.name for item in model.graph.input)
    (result,) = (item.name for item in model.graph.output)
    sites = find_sites(model)
    observer = Observer(sites)
    observer.update(run(expose(model, sites), {source: x}) | {source: x}, np.arange(1))
    evidence = CalibrationEvidence(model, sites, observer.result())
    wide, short = (quantize(evidence, RECIPES[name]).graph for name in ("int8-smooth", "int8-fp16"))
    exact, in_wide, in_short = (
        run(lower(graph, "s8"), {source: x})[result].ravel() for graph in (model, wide, short)
    )
    assert np.abs(in_short - exact).mean() <= 1.2 * np.abs(in_wide - exact).mean()
    casts = Counter(node.op_type for node in short.graph.node)["Cast"]
    assert casts <= 2 + 2 * len(float32_nodes(short))
    target = open_target("tensorrt-rtx")
    profile = {source: Shapes(*[(1, 3, SIZE, SIZE)] * 3)}
    built = target.build(lower(short, "s8").SerializeToString(), profile)
    requested = asked_for(short, sites, layer_products(model, sites, {source: x.shape}))
    (gate,) = precision_gate(requested, target.kernels(built.layers, None), "")
    assert gate.verdict is Verdict.PASSED
    assert gate.estimate is not None
    assert gate.estimate.value >= 0.9
