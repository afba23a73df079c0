"""Releases of before results had quantizers load, are recalibrated, and run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from tasks.graphs.integer_regions import result_sites
from tasks.graphs.sites import find_sites
from tasks.observation.observer import Observer, SiteObservation
from tasks.observation.scales import Scales, dump_scales, parse_results, parse_scales
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.candidate import CalibrationEvidence, Champion, quantize
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tests import graphs


def even() -> onnx.ModelProto:
    """Return two convolutions whose channels have like ranges."""
    model, rng = graphs.convolutions(), np.random.default_rng(1)
    for item in model.graph.initializer:
        values = rng.standard_normal(tuple(item.dims)).astype(np.float32)
        item.CopyFrom(numpy_helper.from_array(values, item.name))
    return model


MODEL = even()
SITES = find_sites(MODEL)
SHAPE = tuple(dim.dim_value for dim in MODEL.graph.input[0].type.tensor_type.shape.dim)[1:]
X = np.random.default_rng(0).standard_normal((16, *SHAPE)).astype(np.float32)


def observed(images: np.ndarray) -> dict[str, SiteObservation]:
    """Watch what layers read and make, on images [n, channels, height, width]."""
    everything = (*SITES, *result_sites(MODEL, SITES))
    tensors = [site.tensor for site in everything]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(MODEL)
    known = {item.name for item in (*exposed.graph.output, *exposed.graph.input)}
    for name in dict.fromkeys(tensors):
        if name not in known:
            exposed.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = ort.InferenceSession(exposed.SerializeToString())
    names = [item.name for item in session.get_outputs()]
    values = dict(zip(names, session.run(names, {MODEL.graph.input[0].name: images}), strict=True))
    values[MODEL.graph.input[0].name] = images
    observer = Observer(everything)
    observer.update({name: values[name] for name in tensors}, np.arange(len(images)))
    return observer.result()


def old_champion() -> Champion:
    """Return a champion as earlier versions stored it: no results in graph or scales."""
    derived = derive(MODEL, SITES, observed(X), find_recipe("int8-max"), None)
    graph = qdq.write(replace(derived.plan, results={}))
    document = json.loads(dump_scales(derived.scales, {}))
    document.pop("results", None)
    stored = json.dumps(document).encode()
    scales: Scales = parse_scales(stored, where="a release")
    return Champion(scales, graph, {}, parse_results(stored, where="a release"))


def test_an_old_release_is_recalibrated_without_gaining_quantizers() -> None:
    champion = old_champion()
    assert champion.results == {}
    brighter = (2 * X).astype(np.float32)
    evidence = CalibrationEvidence(MODEL, SITES, observed(brighter))
    made = quantize(evidence, find_recipe("recalibrate"), champion)
    assert made.derived.results == {}
    assert champion.graph is not None
    assert len(made.graph.graph.node) == len(champion.graph.graph.node)
    exact = graphs.run(MODEL, brighter)
    for form in ("s8", "u8"):
        stale, renewed = (
            float(np.square(graphs.run(lower(graph, form), brighter) - exact).sum())
            for graph in (champion.graph, made.graph)
        )
        assert np.isfinite(renewed)
        assert renewed < stale
