"""From weights to the full-precision graph: it computes what torch does, or is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from examples.digits.network import CONFIG, ConvNet
from infra.engines import open_target
from infra.errors import BadInput
from tasks.graphs.sites import find_sites
from tasks.models import export as exporting
from tasks.models.export import export
from tasks.models.loading import OriginalRun
from tasks.models.text.encoder import SentenceEncoder
from tasks.specs.spec import ModelSpec, load_spec
from tests import graphs
from tests.kind_folders import write_bert

EXAMPLES = Path(__file__).parents[4] / "examples"
DIGITS = EXAMPLES / "digits"
IMAGE_SPEC = load_spec(DIGITS / "model.yaml")
POSITIONS = 32


def text_spec(max_length: int = POSITIONS) -> ModelSpec:
    spec = load_spec(EXAMPLES / "minilm" / "model.yaml")
    return spec.model_copy(
        update={"input": spec.input.model_copy(update={"max_length": max_length})}
    )


TEXT_SPEC = text_spec()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a transformer of the BERT kind with random weights."""
    return write_bert(tmp_path_factory.mktemp("bert"), positions=POSITIONS, spread=0.5)


@pytest.fixture(scope="session")
def digits() -> onnx.ModelProto:
    return export(IMAGE_SPEC, DIGITS)


@pytest.fixture(scope="session")
def encoder(tiny_bert: Path) -> onnx.ModelProto:
    return export(TEXT_SPEC, tiny_bert)


def digits_network() -> nn.Module:
    from safetensors.torch import load_file

    network = ConvNet(CONFIG)
    network.load_state_dict(load_file(DIGITS / "weights.safetensors"))
    return network.eval()


# --- Parity ---------------------------------------------------------------------------------------
# --------------------


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_digit_classifier_computes_what_the_example_trained(
    digits: onnx.ModelProto, batch: int
) -> None:
    images = torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(batch)) * 4
    with torch.no_grad():
        expected = digits_network()(images).numpy()
    found = (
        open_target("onnxruntime-cpu")
        .load(digits.SerializeToString())
        .run({"image": images.numpy()})["logits"]
    )
    assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("tokens", [2, 9, 16, POSITIONS])
def test_a_transformer_computes_what_torch_does_at_any_batch_and_length(
    encoder: onnx.ModelProto, tiny_bert: Path, batch: int, tokens: int
) -> None:
    from transformers import AutoModel

    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(1, 50, (batch, tokens), generator=generator)
    lengths = torch.randint(1, tokens + 1, (batch, 1), generator=generator)
    mask = (torch.arange(tokens)[None, :] < lengths).to(torch.int64)
    with torch.no_grad():
        expected = SentenceEncoder(AutoModel.from_pretrained(tiny_bert)).eval()(ids, mask).numpy()
    feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    engine = open_target("onnxruntime-cpu").load(encoder.SerializeToString())
    assert np.abs(engine.run(feeds)["sentence_embedding"] - expected).max() < 1e-5


def test_padding_does_not_change_an_embedding(encoder: onnx.ModelProto) -> None:
    engine = open_target("onnxruntime-cpu").load(encoder.SerializeToString())
    ids = np.arange(1, 7, dtype=np.int64)[None]
    padded = np.concatenate([ids, np.zeros((1, 4), np.int64)], axis=1)
    mask = (padded > 0).astype(np.int64)
    short = engine.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})[
        "sentence_embedding"
    ]
    long = engine.run({"input_ids": padded, "attention_mask": mask})["sentence_embedding"]
    assert np.abs(short - long).max() < 1e-5


def test_the_sites_bear_the_modules_own_names(
    encoder: onnx.ModelProto, digits: onnx.ModelProto
) -> None:
    assert [site.name for site in find_sites(digits)] == ["conv1", "conv2", "fc1", "fc2"]
    stem = "encoder.encoder.layer.0"
    assert [site.name for site in find_sites(encoder)] == [
        f"{stem}.attention.self.{{query,key,value}}",
        f"{stem}.attention.output.dense",
        f"{stem}.intermediate.dense",
        f"{stem}.output.dense",
    ]


@pytest.mark.parametrize("name", ["digits", "encoder"])
def test_a_shipped_graph_is_valid_and_tells_nothing_of_the_exporting_machine(
    name: str, request: pytest.FixtureRequest
) -> None:
    model: onnx.ModelProto = request.getfixturevalue(name)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    for trace in (b"site-packages", str(Path(__file__).parents[4]).encode(), b"stack_trace"):
        assert trace not in data


def test_exported_twice_it_is_the_same_to_the_byte(digits: onnx.ModelProto) -> None:
    assert export(IMAGE_SPEC, DIGITS).SerializeToString(
        deterministic=True
    ) == digits.SerializeToString(deterministic=True)


# --- The check of an export
# -------------------------------------------------------------------------------------------

PROBE = {"x": torch.rand(3, 8, generator=torch.Generator().manual_seed(0))}
WEIGHT = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)


class Product(nn.Module):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.from_numpy(WEIGHT) + torch.linspace(-1, 1, 5) + self.shift


def runs(shift: float) -> list[OriginalRun]:
    return [
        OriginalRun({"x": PROBE["x"][:count]}, Product(shift)(PROBE["x"][:count]).numpy())
        for count in (3, 1)
    ]


def refusal(shift: float) -> str | None:
    try:
        exporting._require_original(graphs.product(WEIGHT), runs(shift))
    except BadInput as exc:
        return str(exc)
    return None


def test_a_graph_that_computes_the_same_passes_up_to_rounding() -> None:
    assert refusal(0.0) is None
    assert refusal(1e-6) is None


@pytest.mark.parametrize("shift", [0.01, float("nan")])
def test_a_graph_that_differs_is_refused(shift: float) -> None:
    assert "on x [3, 8] the exported graph differs by" in str(refusal(shift))


def test_a_graph_that_holds_the_probes_batch_as_a_constant_is_refused() -> None:
    fixed = graphs.product(WEIGHT)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    with pytest.raises(BadInput, match=r"does not run on x \[1, 8\]"):
        exporting._require_original(fixed, runs(0.0))


def tiny(kind: str, folder: Path, **options: object) -> Path:
    """Make a text encoder of one family with random weights."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        initializer_range=0.5,
        pad_token_id=0,
        **options,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def test_local_attention_is_exported_as_the_model_attends_beyond_it(tmp_path: Path) -> None:
    from transformers import AutoModel

    options = {
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "initializer_cutoff_factor": 2.0,
    }
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)
    folder = tiny("modernbert", tmp_path, **options, **special)
    engine = open_target("onnxruntime-cpu").load(export(text_spec(96), folder).SerializeToString())
    ids, mask = torch.randint(2, 50, (1, 96)), torch.ones((1, 96), dtype=torch.int64)
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(ids, mask).last_hidden_state.mean(1)
    expected = nn.functional.normalize(hidden, dim=1).numpy()
    found = engine.run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    assert np.abs(found["sentence_embedding"] - expected).max() < 1e-5


def test_attention_that_the_export_does_not_reproduce_is_refused(tmp_path: Path) -> None:
    options = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}
    folder = tiny("big_bird", tmp_path, **options)
    with pytest.raises(BadInput, match=r"\[2, 96\].* differs by .* as its users call it"):
        export(text_spec(96), folder)


def test_more_tokens_than_the_model_itself_takes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"fails on texts of 128 tokens .*; lower input.max_length"):
        export(text_spec(128), tiny("roberta", tmp_path))


# --- Folders that are no model
# ----------------------------------------------------------------------------------------


def one_sentence(error: pytest.ExceptionInfo[BadInput]) -> str:
    text = str(error.value)
    assert text.startswith("source: ")
    assert "\n" not in text
    assert error.value.__cause__ is not None
    return text


def digits_with(folder: Path, **files: bytes) -> Path:
    for name in ("config.json", "weights.safetensors"):
        shutil.copy(DIGITS / name, folder)
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"config__json": b"{"}, "cannot be loaded"),
        ({"config__json": b"[]"}, "architecture None"),
        ({"config__json": b'{"architecture": "resnet"}'}, "architecture 'resnet'"),
        ({"config__json": b'{"architecture": "requant-convnet"}'}, "input"),
        ({"config__json": json.dumps(CONFIG | {"channels": 3}).encode()}, "list of numbers"),
        ({"config__json": json.dumps(CONFIG | {"channels": [8, 8]}).encode()}, "cannot be loaded"),
        ({"weights__safetensors": b"not weights"}, "cannot be loaded"),
    ],
)
def test_a_wrong_image_folder_is_bad_input(
    tmp_path: Path, files: dict[str, bytes], says: str
) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        export(IMAGE_SPEC, digits_with(tmp_path, **files))
    one_sentence(caught)


def test_an_empty_folder_is_bad_input(tmp_path: Path) -> None:
    for spec in (IMAGE_SPEC, TEXT_SPEC):
        with pytest.raises(BadInput) as caught:
            export(spec, tmp_path)
        assert str(tmp_path) in one_sentence(caught)


def test_an_image_folder_is_no_text_model() -> None:
    with pytest.raises(BadInput, match="cannot be loaded as text-embedding") as caught:
        export(TEXT_SPEC, DIGITS)
    one_sentence(caught)


def test_a_shape_that_the_network_cannot_take_is_bad_input() -> None:
    wrong = IMAGE_SPEC.model_copy(
        update={"input": IMAGE_SPEC.input.model_copy(update={"shape": (3, 8, 8)})}
    )
    with pytest.raises(BadInput, match="cannot be loaded as image-classification") as caught:
        export(wrong, DIGITS)
    one_sentence(caught)


def test_damaged_transformer_weights_are_bad_input(tiny_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BadInput) as caught:
        export(TEXT_SPEC, folder)
    one_sentence(caught)


def test_texts_longer_than_the_models_positions_are_bad_input(tiny_bert: Path) -> None:
    with pytest.raises(BadInput, match="max_length is 33, and the model has 32 positions"):
        export(text_spec(POSITIONS + 1), tiny_bert)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            "other pooling",
        ),
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "lists Dense"),
    ],
)
def test_a_sentence_encoder_that_pools_otherwise_is_bad_input(
    tiny_bert: Path, tmp_path: Path, file: str, content: object, says: str
) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "copy")
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(BadInput, match=says.replace("other", "another")):
        export(TEXT_SPEC, folder)


# --- A graph that is taken as it is
# -----------------------------------------------------------------------------------


def with_a_second_output(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output.append(helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, None))
    return model


def ready(*, source: str = "image", target: str = "logits", opset: int = 20) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Flatten", [source], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], [target]),
    ]
    weights = {"w": np.ones((64, 4), np.float32), "v": np.ones((4, 10), np.float32)}
    return graphs.model(nodes, weights, {source: ["n", 1, 8, 8]}, {target: ["n", 10]}, opset=opset)


def test_a_ready_graph_is_taken_and_its_nodes_get_names(tmp_path: Path) -> None:
    onnx.save(ready(), tmp_path / "model.onnx")
    taken = export(IMAGE_SPEC, tmp_path)
    assert [site.name for site in find_sites(taken)] == ["MatMul_1", "MatMul_2"]
    assert len({node.name for node in taken.graph.node}) == 3


def test_a_given_name_is_never_taken_twice(tmp_path: Path) -> None:
    model = ready()
    for node, name in zip(model.graph.node, ("MatMul_1", "", "MatMul_1"), strict=True):
        node.name = name
    onnx.save(model, tmp_path / "model.onnx")
    assert [node.name for node in export(IMAGE_SPEC, tmp_path).graph.node] == [
        "MatMul_1",
        "MatMul_1_",
        "MatMul_2",
    ]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (with_a_second_output(ready(target="output")), "needs image to logits"),
        (ready(opset=6), "opset 6"),
    ],
    ids=["output", "opset"],
)
def test_a_ready_graph_of_another_signature_is_bad_input(
    tmp_path: Path, model: onnx.ModelProto, says: str
) -> None:
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BadInput, match=says):
        export(IMAGE_SPEC, tmp_path)


@pytest.mark.parametrize("data", [b"", b"garbage"])
def test_a_ready_file_that_is_no_graph_is_bad_input(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(BadInput, match=r"model\.onnx"):
        export(IMAGE_SPEC, tmp_path)
