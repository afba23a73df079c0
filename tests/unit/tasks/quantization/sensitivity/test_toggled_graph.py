"""One graph with a toggle a part, against the graphs that the writer makes of one site each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from infra.engines import open_target
from tasks.models.export import export
from tasks.models.language.inputs import LanguageInputs
from tasks.models.language.layout import read_layout
from tasks.quantization.graph import qdq
from tasks.quantization.graph.assemble import assemble
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.norms import norm_results
from tasks.quantization.graph.plan import GraphPlan
from tasks.quantization.pipeline.tuning import tune
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.submodules import ATTENTION, NORMS, SCORES, submodules
from tasks.quantization.sensitivity.measure import by_submodule, measure
from tasks.quantization.sensitivity.toggled_graph import INPUT, ToggledGraph, install
from tasks.specs.spec import InputSpec, ModelSpec, Task
from tests import graphs
from tests.language_folders import write_folder
from tests.unit.tasks.quantization.observations import observe

WIDTH = 16


def toggled(
    model: onnx.ModelProto, x: graphs.Floats, recipe: str, *, others: bool = True
) -> ToggledGraph:
    sites, observed = observe(model, x)
    chosen = find_recipe(recipe)
    tuned = tune(model, sites, observed, chosen, None)
    return install(
        assemble(model, sites, observed, chosen, tuned.choices, (), folding=False), others=others
    )


def run(graph: ToggledGraph, x: graphs.Floats, *on: str) -> graphs.Floats:
    session = ort.InferenceSession(
        graph.graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    toggles = np.array([part.name in on for part in graph.parts])
    result: graphs.Floats = session.run(None, {"x": x, INPUT: toggles})[0]
    return result


@pytest.fixture(scope="module")
def x() -> graphs.Floats:
    return np.random.default_rng(0).standard_normal((4, 5, WIDTH)).astype(np.float32)


def test_with_every_switch_off_the_graph_is_full_precision(x: graphs.Floats) -> None:
    model = graphs.encoder(WIDTH)
    np.testing.assert_allclose(
        run(toggled(model, x, "int8-max"), x), graphs.run(model, x), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "recipe", ["int8-max", "int8-smooth", "int8-weights", "int4-block-32", "int8-dynamic"]
)
def test_one_switch_gives_what_an_engine_with_that_site_alone_gives(
    x: graphs.Floats, recipe: str
) -> None:
    model = graphs.encoder(WIDTH)
    sites, observed = observe(model, x)
    chosen = find_recipe(recipe)
    tuned = tune(model, sites, observed, chosen, None)
    graph = toggled(model, x, recipe, others=False)
    exact = graphs.run(model, x)
    for site in sites[:3]:
        others = [other.name for other in sites if other is not site]
        plan = assemble(model, sites, observed, chosen, tuned.choices, others)
        alone = graphs.run(lower(qdq.write(plan), "u8"), x)
        np.testing.assert_allclose(run(graph, x, site.name), alone, rtol=1e-3, atol=1e-4)
        assert not np.allclose(alone, exact, rtol=1e-5, atol=1e-7)


def test_attention_scores_get_switches_of_their_own(x: graphs.Floats) -> None:
    model = graphs.encoder(WIDTH, layers=2)
    graph = toggled(model, x, "int8-max")
    scores = [part.name for part in graph.parts if part.submodule == SCORES]
    assert len(scores) == 4  # query with key, and shares with value, in each of two layers
    exact = run(graph, x)
    for name in scores:
        changed = np.abs(run(graph, x, name) - exact).max()
        assert 0 < changed < np.abs(exact).max()


def test_all_norms_share_one_switch() -> None:
    model = graphs.residual_network()
    x = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
    graph = toggled(model, x, "int8-max")
    (norms,) = [part for part in graph.parts if part.submodule == NORMS]
    assert len(norms.results) == 4
    assert not np.array_equal(run(graph, x, norms.name), run(graph, x))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_norms_that_an_export_wrote_out_have_a_switch_that_changes_the_output(
    family: str, tmp_path: Path
) -> None:
    rules = InputSpec(tokenizer="tokenizer.json", max_length=16, new_tokens=4)
    folder = write_folder(tmp_path / family, family)
    model = export(ModelSpec.model_construct(task=Task.CAUSAL_LM, input=rules), folder)
    assert not any("Normalization" in node.op_type for node in model.graph.node)
    graph = install(GraphPlan(model, (), {}), others=True)
    (norms,) = [part for part in graph.parts if part.submodule == NORMS]
    assert len(norms.results) == 2 * 2 + 1  # two in each of two layers, and one before the head
    inputs = LanguageInputs(
        (folder / "tokenizer.json").read_bytes(), read_layout(model), max_length=16, new_tokens=4
    )
    engine = open_target("onnxruntime-cpu").load(graph.graph.SerializeToString())
    losses = measure(
        engine, inputs, Task.CAUSAL_LM, graph.parts, ["Die Katze sitzt", "def add(x):"]
    )
    groups = {group.name: group for group in by_submodule(losses, {})}
    assert groups[NORMS].loss > 0
    assert groups[NORMS].parts == 1


def written_out(*, divided: bool) -> onnx.ModelProto:
    """LayerNorm without its operator: (x - mean) over the root of its variance, gain and shift.

    Then a layer.
    """
    helper = graphs.helper
    root = [("Sqrt", ["above"], "root"), ("Div", ["centred", "root"], "scaled")]
    if not divided:
        root = [
            ("Sqrt", ["above"], "r"),
            ("Reciprocal", ["r"], "root"),
            ("Mul", ["root", "centred"], "scaled"),
        ]
    nodes = [
        ("ReduceMean", ["x", "axes"], "mean"),
        ("Sub", ["x", "mean"], "centred"),
        ("Mul", ["centred", "centred"], "squared"),
        ("ReduceMean", ["squared", "axes"], "variance"),
        ("Add", ["variance", "epsilon"], "above"),
        *root,
        ("Mul", ["scaled", "gain"], "gained"),
        ("Add", ["gained", "shift"], "normed"),
        ("MatMul", ["normed", "fc.weight"], "p"),
        ("Mul", ["p", "gain"], "y"),  # a constant times anything else is no norm
    ]
    rng = np.random.default_rng(0)
    weights = {
        "axes": np.array([-1]),
        "epsilon": np.float32(1e-5),
        "gain": np.ones(WIDTH, np.float32),
        "shift": np.zeros(WIDTH, np.float32),
        "fc.weight": rng.standard_normal((WIDTH, WIDTH)).astype(np.float32),
    }
    made = [
        helper.make_node(op, inputs, [output], f"node_{output}") for op, inputs, output in nodes
    ]
    return graphs.model(made, weights, {"x": ["n", WIDTH]}, {"y": ["n", WIDTH]})


@pytest.mark.parametrize("divided", [True, False], ids=["over a root", "times its reciprocal"])
def test_what_a_norm_written_out_returns_includes_its_gain_and_its_shift(divided: bool) -> None:
    assert norm_results(written_out(divided=divided)) == ("normed",)


def test_sites_are_grouped_by_the_names_that_exports_keep() -> None:
    sites, _ = observe(graphs.encoder(WIDTH), np.ones((2, 3, WIDTH), np.float32))
    assert submodules(sites)["layer.0.attention.{query,key,value}"] == ATTENTION
