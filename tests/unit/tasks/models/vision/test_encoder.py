"""Any local CLIP folder, or a ViT, becomes one graph from pixels to an embedding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infra.engines import open_target
from infra.errors import BadInput
from tasks.graphs.sites import expose, find_sites
from tasks.metrics.embeddings import cosine
from tasks.models.export import export
from tasks.models.inputs import open_inputs, run_all
from tasks.models.vision.classes import Classes, dump_classes, parse_classes, prototypes
from tasks.models.vision.encoder import embed_texts
from tasks.observation.watch import watch
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.qdq import write
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tasks.specs.spec import InputSpec, ModelSpec, Task
from tests.kind_folders import SIDE, write_clip, write_vit, write_whisper


def spec(*shape: int) -> ModelSpec:
    rules = InputSpec(shape=shape or (3, SIDE, SIDE))
    return ModelSpec.model_construct(name="eye", task=Task.IMAGE_EMBEDDING, input=rules)


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((3, SIDE, SIDE), np.float32) for _ in range(count)]


def test_the_graph_is_clips_own_embedding_of_normalised_pixels(tmp_path: Path) -> None:
    from transformers import CLIPModel

    graph = export(spec(), write_clip(tmp_path))
    engine = open_target("onnxruntime-cpu").load(graph.SerializeToString())
    found = run_all(engine, open_inputs(spec(), None), images(5))
    model = CLIPModel.from_pretrained(str(tmp_path)).eval()
    mean, deviation = (
        torch.tensor(one)[:, None, None] for one in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    )
    pixels = (torch.from_numpy(np.stack(images(5))) - mean) / deviation
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(
            model.get_image_features(pixel_values=pixels).pooler_output, dim=1
        )
    assert np.allclose(found, wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("recipe", ["int8-max", "int8-smooth"])
@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_int8_recipes_keep_the_direction_and_tensorrt_rtx_builds_them(
    kind: str, recipe: str, tmp_path: Path
) -> None:
    graph = export(spec(), write_clip(tmp_path) if kind == "clip" else write_vit(tmp_path))
    sites, inputs, load = (
        find_sites(graph),
        open_inputs(spec(), None),
        open_target("onnxruntime-cpu").load,
    )
    observed = watch(load(expose(graph, sites).SerializeToString()), sites, inputs, images(32))
    made = write(derive(graph, sites, observed, find_recipe(recipe), None).plan)
    before, after = (
        run_all(load(one.SerializeToString()), inputs, images(48)[32:])
        for one in (graph, lower(made, "u8"))
    )
    assert cosine(before, after).mean() > 0.97
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    assert (
        open_target("tensorrt-rtx")
        .build(lower(made, "s8").SerializeToString(), inputs.profile)
        .plan
    )


@pytest.mark.parametrize(
    ("write_folder", "shape", "found"),
    [
        (write_clip, (3, 8, 8), r"input.shape is \[3, 8, 8\], and the model reads \[3, 16, 16\]"),
        (write_whisper, (3, 16, 16), "model_type 'whisper', not clip, "),
        (lambda folder: write_clip(folder, image_mean=[0.5]), (3, 16, 16), "normalises 1 channels"),
    ],
)
def test_a_folder_of_another_kind_or_size_is_refused(
    write_folder: Any, shape: tuple[int, ...], found: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=found):
        export(spec(*shape), write_folder(tmp_path))


def test_texts_are_embedded_by_clips_other_tower(tmp_path: Path) -> None:
    from transformers import CLIPModel

    found = embed_texts(write_clip(tmp_path), "tokenizer.json", ["red a", "blue b c"])
    model = CLIPModel.from_pretrained(str(tmp_path)).eval()
    with torch.no_grad():
        wanted = model.get_text_features(input_ids=torch.tensor([[1, 7, 3, 0]])).pooler_output
    assert cosine(found[:1], wanted.numpy())[0] == pytest.approx(1)
    assert cosine(found[:1], found[1:])[0] < 0.99


def test_a_folder_without_a_text_tower_cannot_embed_texts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a CLIP folder with both towers, and this is a vit"):
        embed_texts(write_vit(tmp_path), "tokenizer.json", ["red"])


def test_a_prototype_is_the_mean_direction_of_its_label_and_survives_storage() -> None:
    made = prototypes(np.array([[2, 0], [0, 3], [0, 1]], np.float32), ["x", "y", "y"])
    read = parse_classes(dump_classes(made), where="classes")
    assert read.names == ("x", "y")
    assert read.nearest(np.array([[1, 0.1], [0.1, 9]], np.float32), "candidate").tolist() == [0, 1]
    assert read.places(["y", "z"]).tolist() == [1, -1]


def test_embeddings_of_another_width_than_the_classes_are_refused() -> None:
    classes = Classes(("x",), np.ones((1, 2), np.float32))
    with pytest.raises(BadInput, match="embeddings are 3 wide, the classes 2"):
        classes.nearest(np.ones((4, 3), np.float32), "candidate")
    with pytest.raises(BadInput, match="holds no classes"):
        parse_classes(b"nothing", where="classes")
