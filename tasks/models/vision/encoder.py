"""A Hugging Face CLIP's vision tower, or a ViT, from pixels to an embedding of length 1."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import Dim

from tasks.models.loading import Loaded, OriginalRun, pretrained
from tasks.specs.spec import ModelSpec

CLIP = frozenset({"clip", "clip_vision_model"})
VIT = frozenset({"vit", "deit", "dinov2"})


class ImageEncoder(nn.Module):
    """Normalised pixels, the encoder, and L2 normalisation."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        encoder: nn.Module,
        projection: nn.Module | None,
        mean: Sequence[float],
        deviation: Sequence[float],
    ) -> None:
        super().__init__()
        self.encoder, self.projection = encoder, projection
        self.register_buffer("mean", torch.tensor(list(mean))[None, :, None, None])
        self.register_buffer("deviation", torch.tensor(list(deviation))[None, :, None, None])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return embeddings: pixels in 0..1 [batch, channels, height, width] -> [batch, width].

        They are CLIP's projection, or what ViT makes of its CLS token.
        """
        outputs = self.encoder(pixel_values=(image - self.mean) / self.deviation)
        embedding = (
            outputs.last_hidden_state[:, 0]
            if self.projection is None
            else self.projection(outputs.pooler_output)
        )
        return nn.functional.normalize(embedding, dim=1)


def load_image_encoder(spec: ModelSpec, folder: Path) -> Loaded:
    """Load the vision side of a CLIP folder, or a ViT; whatever transformers raises passes.

    Pixels are normalised as preprocessor_config.json says.

    Raises:
        ValueError: for another architecture or another image size than the model's.
    """
    from transformers import AutoConfig, AutoModel, CLIPModel, CLIPVisionModelWithProjection

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if config.model_type not in CLIP | VIT:
        types = ", ".join(sorted(CLIP | VIT))
        raise ValueError(
            f"config.json names model_type {config.model_type!r}, not {types}; bring a model.onnx "
            "instead"
        )
    vision = getattr(config, "vision_config", config)
    shape = (int(vision.num_channels), *_sides(vision.image_size))
    if spec.input.shape != shape:
        raise ValueError(
            f"input.shape is {list(spec.input.shape or ())}, and the model reads {list(shape)}"
        )
    kind: Any = {"clip": CLIPModel, "clip_vision_model": CLIPVisionModelWithProjection}.get(
        config.model_type, AutoModel
    )
    spare = () if config.model_type in CLIP else ("pooler.",)
    normalisation = _normalisation(folder, shape[0])
    runs = _original_runs(pretrained(kind, folder, spare=spare, attention=None), folder, shape)
    model = pretrained(kind, folder, spare=spare)
    encoder, projection = (
        (model.vision_model, model.visual_projection)
        if config.model_type in CLIP
        else (model, None)
    )
    module = ImageEncoder(encoder, projection, *normalisation).eval()
    probe = {"image": runs[0].feeds["image"]}
    return Loaded(module, probe, {"image": {0: Dim("batch", min=1, max=1024)}}, runs)


def _original_runs(model: Any, folder: Path, shape: Sequence[int]) -> tuple[OriginalRun, ...]:
    """Ask the model itself, with the folder's own processor, on images of the model's size."""
    runs = []
    for count in (3, 1, 2):
        random = np.random.default_rng(count)
        images = random.integers(0, 256, (count, *shape), dtype=np.uint8)
        with torch.no_grad():
            embedding = _embedding(model, _processed(folder, images))
        answer = nn.functional.normalize(embedding, dim=1).numpy()
        runs.append(OriginalRun({"image": torch.from_numpy(images / np.float32(255))}, answer))
    return tuple(runs)


def _processed(folder: Path, images: NDArray[np.uint8]) -> torch.Tensor:
    """Return what the folder's processor makes of images; without one, values in 0..1."""
    from transformers import AutoImageProcessor

    if not (folder / "preprocessor_config.json").exists():
        return torch.from_numpy(images / np.float32(255))
    processor = AutoImageProcessor.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    pixels: torch.Tensor = processor(
        images=list(images),
        do_resize=False,
        do_center_crop=False,
        input_data_format="channels_first",
        return_tensors="pt",
    )["pixel_values"]
    return pixels


def _embedding(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    kind = model.config.model_type
    embedding: torch.Tensor
    if kind == "clip":
        embedding = model.get_image_features(pixel_values=pixels).pooler_output
    elif kind == "clip_vision_model":
        embedding = model(pixel_values=pixels).image_embeds
    else:
        embedding = model(pixel_values=pixels).last_hidden_state[:, 0]
    return embedding


def embed_texts(folder: Path, tokenizer: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return what a CLIP folder's text tower makes of each text: [texts, width], of length 1.

    Whatever transformers and tokenizers raise passes.

    Raises:
        ValueError: when the folder has no text tower.
    """
    from tokenizers import Tokenizer
    from transformers import AutoConfig, CLIPModel

    kind = AutoConfig.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    ).model_type
    if kind != "clip":
        raise ValueError(
            f"golden.prompt needs a CLIP folder with both towers, and this is a {kind}: leave it "
            "out"
        )
    model = pretrained(CLIPModel, folder)
    encoder = Tokenizer.from_file(str(folder / tokenizer))
    encoder.no_padding()
    encoder.enable_truncation(int(model.config.text_config.max_position_embeddings))
    rows = [torch.tensor([encoder.encode(text).ids]) for text in texts]
    with torch.no_grad():
        embeddings = torch.cat(
            [model.get_text_features(input_ids=row).pooler_output for row in rows]
        )
        return np.asarray(nn.functional.normalize(embeddings, dim=1).numpy(), np.float32)


def _sides(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _normalisation(folder: Path, channels: int) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each channel; without the file, pixels go in as they are."""
    path = folder / "preprocessor_config.json"
    preprocessor = json.loads(path.read_text()) if path.exists() else {}
    if not preprocessor.get("do_normalize", bool(preprocessor)):
        return [0.0] * channels, [1.0] * channels
    mean, deviation = list(preprocessor["image_mean"]), list(preprocessor["image_std"])
    if len(mean) != channels or len(deviation) != channels:
        raise ValueError(
            f"preprocessor_config.json normalises {len(mean)} channels, and the model reads "
            f"{channels}"
        )
    return mean, deviation
