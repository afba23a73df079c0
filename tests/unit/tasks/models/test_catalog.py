"""Registering a model: all is checked before anything is stored, the same content once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper

from infra.errors import BadInput, NotFound
from infra.settings import settings
from tasks.models.catalog import RegisteredModel, open_model, register
from tasks.specs.registration import model_names
from tests import graphs

DIGITS = Path(__file__).parents[4] / "examples" / "digits"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("REQUANT_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.delenv("REQUANT_STORE_URL", raising=False)
    settings.cache_clear()
    yield tmp_path / "workspace"
    settings.cache_clear()


def classifier(weight: float = 0.1) -> onnx.ModelProto:
    """Return a model from images to logits by one product: a ready graph needs no export."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    matrix = np.full((64, 10), weight, np.float32)
    return graphs.model(nodes, {"w": matrix}, {"image": ["n", 1, 8, 8]}, {"logits": ["n", 10]})


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., Path]:
    def write(model: onnx.ModelProto | None = None, **changes: object) -> Path:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        for name in ("golden.parquet", "calibration.parquet"):
            shutil.copy(DIGITS / name, folder)
        onnx.save(model or classifier(), folder / "model.onnx")
        document = yaml.safe_load((DIGITS / "model.yaml").read_text()) | changes
        (folder / "model.yaml").write_text(yaml.safe_dump(document))
        return folder / "model.yaml"

    return write


def test_a_registered_model_can_be_opened_and_run(spec: Callable[..., Path]) -> None:
    registered = register(spec())
    assert open_model("digits") == registered
    assert registered.spec.name == "digits"
    assert [site.tensor for site in registered.sites] == ["flat"]
    assert registered.golden_reference.shape == (len(registered.golden.cases), 10)
    assert len(registered.pool) > 100
    assert set(registered.instrumented.run({"image": np.zeros((1, 1, 8, 8), np.float32)})) == {
        "logits",
        "flat",
    }


def test_registering_the_same_content_again_changes_nothing(spec: Callable[..., Path]) -> None:
    path = spec()
    first = register(path)
    keys = sorted(settings().store().list(""))
    assert register(path) == first
    assert sorted(settings().store().list("")) == keys


def test_a_corpus_to_replay_is_kept_beside_and_the_pool_stands_in_for_it(
    spec: Callable[..., Path],
) -> None:
    path = spec()
    first = register(path)
    assert first.replay == first.pool
    shutil.copy(DIGITS / "traffic.parquet", path.parent)
    again = register(path)
    assert again.digest == first.digest  # replaying other rows makes no other model
    settings.cache_clear()
    assert len(RegisteredModel(again.name, again.digest).replay) == 422


def test_new_weights_are_a_new_digest_and_the_old_ones_stay(spec: Callable[..., Path]) -> None:
    old, new = register(spec()), register(spec(classifier(0.2)))
    assert old.digest != new.digest
    assert open_model("digits") == new
    assert old.file("reference.onnx") != new.file("reference.onnx")


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(
    spec: Callable[..., Path],
) -> None:
    with pytest.raises(NotFound, match="known: none yet"):
        open_model("digits")
    register(spec())
    with pytest.raises(NotFound, match="known: digits"):
        open_model("other")
    assert model_names(settings().store()) == ["digits"]


@pytest.mark.parametrize("data", [b"", b"[]", b"{}"])
def test_a_damaged_entry_is_bad_input(spec: Callable[..., Path], data: bytes) -> None:
    register(spec())
    settings().store().put("models/digits/current", data)
    with pytest.raises(BadInput, match="models/digits/current is damaged"):
        open_model("digits")


def without_weights() -> onnx.ModelProto:
    nodes = [helper.make_node("Flatten", ["image"], ["logits"])]
    return graphs.model(nodes, {}, {"image": ["n", 1, 8, 8]}, {"logits": ["n", 64]})


@pytest.mark.parametrize(
    ("model", "changes", "says"),
    [
        (
            None,
            {"golden": {"cases": "absent.parquet"}},
            r"golden\.cases: .*absent.parquet cannot be read",
        ),
        (None, {"golden": {"cases": "model.onnx"}}, "golden is not"),
        (
            None,
            {"data": {"calibration": "model.onnx"}},
            r"data\.calibration is not a readable Parquet",
        ),
        (None, {"source": "elsewhere"}, "'elsewhere' is no folder"),
        (None, {"input": {"shape": [3, 8, 8]}}, "wants images of shape"),
        (without_weights(), {}, "no matrix product or convolution"),
    ],
    ids=["absent golden set", "golden set", "pool", "source", "shape", "nothing to quantize"],
)
def test_whatever_is_wrong_is_said_before_anything_is_stored(
    spec: Callable[..., Path], model: onnx.ModelProto | None, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        register(spec(model, **changes))
    assert list(settings().store().list("")) == []
