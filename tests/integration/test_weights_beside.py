"""A language model whose weights lie beside its graph, from a folder to a served version."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from examples.rows import CorpusRow, Payload, write
from infra.engines import open_target
from infra.errors import Tampered
from infra.settings import Settings, use_workspace
from infra.stores import layout
from infra.weights.naming import weight_files
from tasks.models.golden import write_golden
from tasks.records import CandidateRef, ReleaseRef, SampleRef
from tests.integration.test_language import _spec, golden_cases, sentences
from tests.language_folders import write_folder

pytestmark = pytest.mark.timeout(400)
TARGETS = ("onnxruntime-cpu", "tensorrt-rtx")
RECIPES = ("int8-smooth", "int4-block-32")


@pytest.fixture(scope="module")
def beside(
    shared_workspace: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Register a small model with everything of 4 KiB beside its graph."""
    from tasks.models.catalog import register

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUANT_WEIGHTS_BESIDE_MIB", "0")
        chosen = use_workspace(shared_workspace.root)
        folder = write_folder(tmp_path_factory.mktemp("beside"), "llama", hidden=64)
        pool = [
            CorpusRow(str(n), Payload(text=text), "docs", "en")
            for n, text in enumerate(sentences(50, 48))
        ]
        write(folder / "calibration.parquet", pool)
        (folder / "golden.parquet").write_bytes(write_golden(golden_cases()))
        (folder / "model.yaml").write_text(yaml.safe_dump(_spec()))
        register(folder / "model.yaml")
        yield chosen
    use_workspace(shared_workspace.root)


@pytest.fixture(scope="module")
def calibration(beside: Settings) -> SampleRef:
    from infra.stores.layout import CALIBRATION
    from tasks.models.catalog import open_model
    from tasks.sampling.digest import sample_of
    from tasks.sampling.stored_samples import keep_sample

    pool = open_model("speaker").pool
    sample = sample_of(pool, seen=len(pool), dropped={})
    return keep_sample(beside.store(), CALIBRATION, "speaker", sample)


@pytest.fixture(scope="module")
def candidates(calibration: SampleRef) -> dict[str, CandidateRef]:
    from tasks.quantization.steps import build_engine, observe, write_graph

    observation = observe.fn(calibration)
    made = {name: write_graph.fn(calibration, observation, name, None) for name in RECIPES}
    for candidate in made.values():
        for target in TARGETS:
            build_engine.fn(candidate, target)
    return made


def stored(beside: Settings, candidate: CandidateRef, file: str) -> bytes:
    return beside.store().get(candidate.key(file))


def test_no_graph_holds_its_weights(beside: Settings, candidates: dict[str, CandidateRef]) -> None:
    from tasks.models.catalog import open_model

    reference = open_model("speaker").file("reference.onnx")
    graphs = [reference]
    for candidate in candidates.values():
        plan = "engines/onnxruntime-cpu/plan"
        graphs += [stored(beside, candidate, name) for name in ("graph.onnx", plan)]
    for graph in graphs:
        held = onnx.load_model_from_string(graph).graph.initializer
        assert max(item.ByteSize() for item in held) < 4096 + 256
        assert weight_files(graph)


def test_graphs_share_the_weights_that_are_the_same(
    beside: Settings, candidates: dict[str, CandidateRef]
) -> None:
    from tasks.models.catalog import open_model

    reference = weight_files(open_model("speaker").file("reference.onnx"))
    smooth = candidates["int8-smooth"]
    graph = weight_files(stored(beside, smooth, "graph.onnx"))
    plan = weight_files(stored(beside, smooth, "engines/onnxruntime-cpu/plan"))
    assert set(graph) & set(reference)  # the embedding table
    assert set(plan) == set(graph)
    assert all(beside.store().exists(layout.weight(name)) for name in (*reference, *graph))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_graph_answers_as_one_that_holds_its_weights(
    beside: Settings, candidates: dict[str, CandidateRef], recipe: str
) -> None:
    from tasks.models.catalog import open_model

    plan = stored(beside, candidates[recipe], "engines/onnxruntime-cpu/plan")
    whole = beside.weights().inside(onnx.load_model_from_string(plan)).SerializeToString()
    assert not weight_files(whole)
    inputs = open_model("speaker").inputs
    feeds = next(iter(inputs.batches(sentences(60, 3)))).feeds
    target = open_target("onnxruntime-cpu")
    apart, together = target.load(plan).run(feeds), target.load(whole).run(feeds)
    for name, values in together.items():
        np.testing.assert_array_equal(apart[name], values)


def test_a_release_is_served_by_mlflow_alone_and_verified_with_its_weights(
    beside: Settings, candidates: dict[str, CandidateRef], tmp_path: Path
) -> None:
    from tasks.promotion.release import Judged
    from tasks.promotion.steps import release_candidate
    from tasks.promotion.verification import require_intact, verification
    from tasks.quantization.candidates import load_facts
    from tasks.records import EngineRef

    candidate = candidates["int8-smooth"]
    assert load_facts(candidate.key("candidate.json"))
    engines = [EngineRef(name, 1, 0.0, True, "") for name in TARGETS]
    release: ReleaseRef = release_candidate.fn(Judged(candidate, engines, ()), "test")
    bundle = beside.release("speaker", release.digest)
    assert set(bundle.weights) >= set(weight_files(bundle.file("graph.onnx")))
    require_intact(release)
    assert "gates" in verification("speaker", release.version).reason  # and nothing before them
    served = subprocess.run(
        [sys.executable, "-c", SERVE, release.version],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert served.returncode == 0, served.stderr[-2000:]
    name = next(iter(bundle.weights))
    key = layout.weight(name)
    data = bytearray(beside.store().get(key))
    data[7] ^= 1
    beside.store().put(key, bytes(data))
    with pytest.raises(Tampered, match="differ from their digest"):
        require_intact(release)


SERVE = """
import sys
import numpy as np
import mlflow
model = mlflow.pyfunc.load_model(f"models:/speaker/{sys.argv[1]}")
feeds = {}
for item in model.metadata.get_input_schema().inputs:
    shape = [1 if side == -1 else side for side in item.shape]
    feeds[item.name] = np.ones(shape, item.type)
    if item.name.startswith("past."):
        feeds[item.name] = feeds[item.name][:, :, :1]
print(sorted(model.predict(feeds))[0])
"""
