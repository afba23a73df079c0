"""What ONNX Runtime multiplies 4-bit weights with is what the recipe says, here and in MLflow."""

from pathlib import Path

import mlflow.onnx
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from infra.engine_options.accuracy_level import OPTION, session_options
from infra.engines import open_target
from infra.registry.flavour import PROVIDERS
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.derive import Derived, derive
from tasks.quantization.recipe.catalog import find_recipe
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

WIDTH = 64
X = np.random.default_rng(0).standard_normal((8, 6, WIDTH)).astype(np.float32)
X[:, :, 3] *= 60.0  # rounding such rows to INT8 erases their other channels
MODEL = graphs.encoder(WIDTH)
SITES, OBSERVED = observe(MODEL, X)


def derived(name: str) -> Derived:
    return derive(MODEL, SITES, OBSERVED, find_recipe(name), None)


def written(name: str) -> onnx.ModelProto:
    return lower(qdq.write(derived(name).plan), "u8")


def unoptimized(graph: onnx.ModelProto) -> np.ndarray:
    """Run the graph operator by operator, so that nothing is fused."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph.SerializeToString(), options)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: X})[0])


def error(served: np.ndarray, graph: onnx.ModelProto) -> float:
    exact = unoptimized(graph)
    return float(np.square(served - exact).sum() / np.square(exact).sum())


def served(graph: onnx.ModelProto) -> np.ndarray:
    engine = open_target("onnxruntime-cpu").load(graph.SerializeToString())
    [output] = engine.run({graph.graph.input[0].name: X}).values()
    return np.asarray(output)


def test_weights_alone_meet_floats_unless_the_recipe_says_otherwise() -> None:
    floats, integers = written("int4-gptq"), written("int4-gptq-a8")
    assert error(served(floats), floats) < 1e-9
    assert error(served(integers), integers) > 1e-6


@pytest.mark.parametrize(("name", "level"), [("int4-gptq", "1"), ("int4-gptq-a8", "4")])
def test_mlflow_runs_the_release_as_it_was_judged(name: str, level: str, tmp_path: Path) -> None:
    graph = written(name)
    options = session_options(graph)
    assert options == {"extra_session_config": {OPTION: level}}
    mlflow.onnx.save_model(
        graph,
        tmp_path / "m",
        onnx_session_options=options,
        onnx_execution_providers=PROVIDERS,
        save_as_external_data=False,
    )
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "m"))
    [output] = loaded.predict({graph.graph.input[0].name: X}).values()
    np.testing.assert_allclose(output, served(graph), rtol=1e-5, atol=1e-6)


def test_a_graph_without_blocks_asks_for_nothing() -> None:
    assert session_options(written("int8-max")) is None
    assert session_options(MODEL) is None


def test_the_report_says_which() -> None:
    assert derived("int4-gptq").diagnostics[-1].endswith("weights in blocks with floats")
    assert derived("int4-gptq-a8").diagnostics[-1].endswith("activations rounded to INT8")
