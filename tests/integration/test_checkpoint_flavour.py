"""A checkpoint's version in MLflow: loaded by its transformers flavour, and verified whole."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch

from infra.canonical import sha256
from infra.settings import Settings
from infra.stores.digests import DigestCache
from tests.integration.test_checkpoint_loop import write_checkpoint

MODEL = "large"
TEXT = "model range drift"


@pytest.fixture(scope="module")
def version(shared_workspace: Settings, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Register a quantized checkpoint as version 1, and make it champion."""
    from tasks.models.catalog import register
    from tasks.models.inputs import language_inputs
    from tasks.promotion.release import weights_beside
    from tasks.quantization.recipe.catalog import find_recipe
    from tasks.quantization.streamed.candidate import Origin, derive_candidate

    scratch = tmp_path_factory.mktemp("flavour")
    model = register(write_checkpoint(scratch) / "model.yaml")
    files = derive_candidate(
        model.checkpoint,
        language_inputs(model.inputs),
        model.pool,
        find_recipe("int8-smooth"),
        Origin(model.digest, "c" * 64, "o"),
        scratch / "derived",
        {},
    )
    index, registry = files["graph.onnx"], shared_workspace.registry()
    made = registry.register(
        MODEL,
        index,
        release="r" * 64,
        tags={},
        run_name="a candidate",
        metrics={},
        params={},
        artifacts={},
        weights=weights_beside(index),
    )
    registry.set_alias(MODEL, "champion", made)
    held = (MODEL, made, sha256(index), DigestCache(None))
    (described,) = (shared_workspace.root / "artifacts").rglob("MLmodel")
    return SimpleNamespace(
        index=onnx.load_from_string(index),
        folder=described.parent,
        wrong=lambda: registry.wrong_in(*held),
        uri=shared_workspace.mlflow_uri,
    )


def test_mlflow_loads_the_quantized_model_and_it_writes(version: Any, tmp_path: Path) -> None:
    import mlflow
    from transformers import AutoModelForCausalLM

    from tasks.models.checkpoints.carried import CarriedCheckpoint

    mlflow.set_tracking_uri(version.uri)
    pipeline = mlflow.transformers.load_model(f"models:/{MODEL}@champion")
    CarriedCheckpoint(version.index).write_folder(tmp_path / "exported")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    ids = torch.tensor([pipeline.tokenizer.encode(TEXT)])
    with torch.no_grad():
        assert torch.equal(pipeline.model.eval()(ids).logits, exported(ids).logits)
    (written,) = pipeline(TEXT, max_new_tokens=4, do_sample=False)
    loaded = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion")
    assert loaded.input_example == ["What changed since yesterday?"]
    (answer,) = loaded.predict([TEXT], params={"max_new_tokens": 4, "do_sample": False})
    assert answer.startswith(TEXT)
    assert len(min(answer, written["generated_text"], key=len)) > len(TEXT)
    assert version.wrong() is None


def test_every_tensor_lies_there_once(version: Any) -> None:
    sizes = [path.stat().st_size for path in version.folder.rglob("*.safetensors")]
    from tasks.models.checkpoints.index_graph import size_of

    headers = 400 * len(sizes) + 6000  # names and shapes
    assert size_of(version.index) <= sum(sizes) <= size_of(version.index) + headers


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", lambda data: data.replace(b"64", b"65", 1), "config.json"),
        ("components/tokenizer/tokenizer.json", lambda data: data + b" ", "tokenizer.json"),
        ("inside.safetensors", lambda data: data[:-1] + b"\x7f", "inside.safetensors"),
        ("model.safetensors.index.json", lambda data: data + b" ", "index.json"),
        ("sha256-*.safetensors", lambda data: data[:-1] + b"\x7f", "differs from its digest"),
        ("MLmodel", lambda data: data.replace(b"AutoModelForCausalLM", b"AutoModel"), "to run"),
        ("MLmodel", lambda data: data + b"metadata: {prompt_template: 'x {prompt}'}\n", "to run"),
        ("requirements.txt", lambda data: data + b"\nevil==1", "requires 'evil==1'"),
    ],
)
def test_a_file_that_was_changed_is_told(
    version: Any, name: str, change: Callable[[bytes], bytes], said: str
) -> None:
    path = sorted(version.folder.glob(name))[0]
    before = path.read_bytes()
    assert change(before) != before
    path.write_bytes(change(before))
    try:
        assert said in str(version.wrong())
    finally:
        path.write_bytes(before)
    assert version.wrong() is None
