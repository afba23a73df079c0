"""From a folder of weights to the full-precision ONNX graph that everything else starts from."""

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.export import Dim

from infra.engines import open_target
from infra.errors import BadInput
from tasks.models.spec import ModelSpec, Task

OUTPUTS = {Task.TEXT_EMBEDDING: "sentence_embedding", Task.IMAGE_CLASSIFICATION: "logits"}
OPSET = 20
TOLERANCE = 1e-4
"""Largest allowed difference between the exported graph and torch, on outputs of order one."""


def export(spec: ModelSpec, folder: Path) -> onnx.ModelProto:
    """The full-precision graph, opset 20, with dynamic batch (and length).

    A folder with one `model.onnx` is taken as it is. Raises `BadInput` when the folder cannot be read as the spec's
    task, or when the exported graph does not compute what torch computes.
    """
    ready = folder / "model.onnx"
    if ready.is_file():
        return onnx.load(ready)
    try:
        module, probe, shapes = _text(folder) if spec.task is Task.TEXT_EMBEDDING else _image(spec, folder)
    except (OSError, ValueError, KeyError, RuntimeError) as exc:
        raise BadInput(f"source: {folder} cannot be loaded as {spec.task}: {str(exc).splitlines()[0]}") from exc
    model = _to_onnx(module, probe, shapes, OUTPUTS[spec.task])
    _check(model, module, probe)
    return model


class SentenceEncoder(nn.Module):
    """A transformer encoder, mean pooling over the attention mask, and L2 normalisation."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and mask [batch, tokens] -> embeddings [batch, hidden]."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(pooled, dim=1)


class ConvNet(nn.Module):
    """Two convolutions and two dense layers; `config.json` gives the widths."""

    def __init__(self, config: Mapping[str, list[int] | int | str]) -> None:
        super().__init__()
        depth, height, width = (int(item) for item in _ints(config["input"]))
        first, second = _ints(config["channels"])
        self.conv1 = nn.Conv2d(depth, first, 3, padding=1)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.fc1 = nn.Linear(second * (height // 2) * (width // 2), 64)
        self.fc2 = nn.Linear(64, int(str(config["classes"])))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images [batch, channels, height, width] -> logits [batch, classes]."""
        image = torch.relu(self.conv1(image))
        image = torch.max_pool2d(torch.relu(self.conv2(image)), 2)
        hidden: torch.Tensor = self.fc2(torch.relu(self.fc1(image.flatten(1))))
        return hidden


def _ints(value: list[int] | int | str) -> list[int]:
    if not isinstance(value, list):
        raise ValueError(f"config.json: {value!r} should be a list of numbers")  # noqa: TRY004  # caught with the rest
    return value


Probe = dict[str, torch.Tensor]
Shapes = dict[str, dict[int, Dim]]


def _text(folder: Path) -> tuple[nn.Module, Probe, Shapes]:
    from transformers import AutoModel

    # Eager attention exports to plain products and a softmax, which every target parses.
    encoder = AutoModel.from_pretrained(str(folder), local_files_only=True, attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, int(encoder.config.vocab_size), (3, 16), generator=generator)
    mask = (torch.arange(16)[None, :] < torch.tensor([[16], [9], [5]])).to(torch.int64)
    batch, tokens = Dim("batch", min=1, max=1024), Dim("tokens", min=2, max=512)
    shape = {0: batch, 1: tokens}
    probe = {"input_ids": ids, "attention_mask": mask}
    return SentenceEncoder(encoder).eval(), probe, {"input_ids": shape, "attention_mask": shape}


def _image(spec: ModelSpec, folder: Path) -> tuple[nn.Module, Probe, Shapes]:
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    if config.get("architecture") != "requant-convnet":
        raise ValueError(f"config.json names architecture {config.get('architecture')!r}; bring a model.onnx instead")
    module = ConvNet(config)
    module.load_state_dict(load_file(folder / "weights.safetensors"))
    image = torch.rand(3, *(spec.input.shape or ()), generator=torch.Generator().manual_seed(0))
    return module.eval(), {"image": image}, {"image": {0: Dim("batch", min=1, max=1024)}}


def _to_onnx(module: nn.Module, probe: Probe, shapes: Shapes, output: str) -> onnx.ModelProto:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        program = torch.onnx.export(
            module,
            kwargs=probe,
            dynamo=True,
            input_names=list(probe),
            output_names=[output],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise BadInput("source: torch could not export the model to ONNX")
    model: onnx.ModelProto = program.model_proto
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        # Traces of the exporting machine's source files do not belong into a shipped graph.
        del item.metadata_props[:]
    return model


def _check(model: onnx.ModelProto, module: nn.Module, probe: Probe) -> None:
    with torch.no_grad():
        expected = module(**probe).numpy()
    feeds = {name: tensor.numpy() for name, tensor in probe.items()}
    (found,) = open_target("onnxruntime-cpu").load(model.SerializeToString()).run(feeds).values()
    difference = float(np.abs(found - expected).max())
    if not difference < TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise BadInput(
            f"source: the exported graph differs from torch by {difference:.2g}; the export cannot be trusted"
        )
