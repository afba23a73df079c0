"""One graph with a switch a part, against the graphs that the writer makes of one site each."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tasks.quantization import qdq
from tasks.quantization.assemble import assemble
from tasks.quantization.derive import tune
from tasks.quantization.lowering import lower
from tasks.quantization.recipes import find_recipe
from tasks.quantization.submodules import ATTENTION, NORMS, SCORES, submodules
from tasks.quantization.switches import INPUT, Switched, install
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

WIDTH = 16


def switched(model: onnx.ModelProto, x: graphs.Floats, recipe: str, *, others: bool = True) -> Switched:
    sites, observed = observe(model, x)
    chosen = find_recipe(recipe)
    tuned = tune(model, sites, observed, chosen, None)
    return install(assemble(model, sites, observed, chosen, tuned.choices, (), folding=False), others=others)


def run(graph: Switched, x: graphs.Floats, *on: str) -> graphs.Floats:
    session = ort.InferenceSession(graph.graph.SerializeToString(), providers=["CPUExecutionProvider"])
    switches = np.array([part.name in on for part in graph.parts])
    result: graphs.Floats = session.run(None, {"x": x, INPUT: switches})[0]
    return result


@pytest.fixture(scope="module")
def x() -> graphs.Floats:
    return np.random.default_rng(0).standard_normal((4, 5, WIDTH)).astype(np.float32)


def test_with_every_switch_off_the_graph_is_full_precision(x: graphs.Floats) -> None:
    model = graphs.encoder(WIDTH)
    np.testing.assert_allclose(run(switched(model, x, "int8-max"), x), graphs.run(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", ["int8-max", "int8-smooth", "int8-weights", "int4-block-32", "int8-dynamic"])
def test_one_switch_gives_what_an_engine_with_that_site_alone_gives(x: graphs.Floats, recipe: str) -> None:
    model = graphs.encoder(WIDTH)
    sites, observed = observe(model, x)
    chosen = find_recipe(recipe)
    tuned = tune(model, sites, observed, chosen, None)
    graph = switched(model, x, recipe, others=False)
    exact = graphs.run(model, x)
    for site in sites[:3]:
        others = [other.name for other in sites if other is not site]
        plan = assemble(model, sites, observed, chosen, tuned.choices, others)
        alone = graphs.run(lower(qdq.write(plan), "u8"), x)
        np.testing.assert_allclose(run(graph, x, site.name), alone, rtol=1e-3, atol=1e-4)
        assert not np.allclose(alone, exact, rtol=1e-5, atol=1e-7)


def test_attention_scores_get_switches_of_their_own(x: graphs.Floats) -> None:
    model = graphs.encoder(WIDTH, layers=2)
    graph = switched(model, x, "int8-max")
    scores = [part.name for part in graph.parts if part.submodule == SCORES]
    assert len(scores) == 4  # query with key, and shares with value, in each of two layers
    exact = run(graph, x)
    for name in scores:
        changed = np.abs(run(graph, x, name) - exact).max()
        assert 0 < changed < np.abs(exact).max()


def test_all_norms_share_one_switch() -> None:
    model = graphs.residual_network()
    x = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
    graph = switched(model, x, "int8-max")
    (norms,) = [part for part in graph.parts if part.submodule == NORMS]
    assert len(norms.results) == 4
    assert not np.array_equal(run(graph, x, norms.name), run(graph, x))


def test_sites_are_grouped_by_the_names_that_exports_keep() -> None:
    sites, _ = observe(graphs.encoder(WIDTH), np.ones((2, 3, WIDTH), np.float32))
    assert submodules(sites)["layer.0.attention.{query,key,value}"] == ATTENTION
