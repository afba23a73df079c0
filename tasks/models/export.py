"""From a folder of weights to the full-precision ONNX graph that everything else starts from."""

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import Dim

from infra.engines import open_target
from infra.engines.port import Engine
from infra.errors import BadInput
from infra.processes.memory import return_freed
from tasks.graphs.canonical.given import fix_sizes, fix_values, fixed_values
from tasks.graphs.canonical.passes import make_canonical
from tasks.graphs.files import (
    float_weights,
    largest_float_weight,
    load_graph,
    require_room,
    require_room_beside,
)
from tasks.graphs.weights import are_large
from tasks.models.adapted import graph_names
from tasks.models.language.decoder import OriginalText, cut, flatten, load_decoder
from tasks.models.language.decoder import Probe as DecoderProbe
from tasks.models.language.gguf_file import is_gguf, weights_in_float32
from tasks.models.language.layout import (
    CacheLayout,
    FoundPrefix,
    mark,
    mark_prefix,
    read_layout,
)
from tasks.models.language.prefix import PrefixTexts
from tasks.models.loading import Loaded, OriginalRun
from tasks.models.speech.hearing import read_hearing
from tasks.models.speech.recognizer import load_recognizer
from tasks.models.text.encoder import load_text_encoder
from tasks.models.tracing.decoder_export import decoder_from_template
from tasks.models.tracing.torch_export import to_onnx
from tasks.models.vision.encoder import load_image_encoder
from tasks.specs.spec import ModelSpec, Task
from tasks.specs.traits import TRAITS

READY = "model.onnx"
"""A folder that holds it needs no export."""
TOLERANCE = 1e-4
"""Largest allowed difference between the exported graph and torch, on outputs of order one."""


def export(
    spec: ModelSpec,
    folder: Path,
    adapter: Path | None = None,
    prefix_in: PrefixTexts | None = None,
) -> onnx.ModelProto:
    """Return the full-precision graph, opset 20, with dynamic batch (and length).

    A graph's file, or a folder with one `model.onnx`, is taken as it is, but for names of nodes
    that lack one. An `adapter` is a folder of PEFT's; the graph is of both, merged. A language
    model's prefix is found in texts, where they are given.

    Raises:
        BadInput: when the folder cannot be read as the spec's task, or when the exported graph does
            not compute what torch computes.
    """
    if spec.task is Task.CAUSAL_LM and is_gguf(folder):
        return _language(spec, folder, weights_in_float32(folder), adapter, prefix_in)
    ready = folder if folder.is_file() else folder / "model.onnx"
    if ready.is_file():
        if prefix_in is not None:
            raise BadInput(
                f"input.prefix: {ready} is a graph already: name the folder that it was exported "
                "from in source, or leave input.prefix out"
            )
        if adapter is not None:
            raise BadInput(
                f"adapter.path: {adapter} is laid over a Hugging Face folder, and {ready} is a "
                "graph already: name the folder that it was exported from in source"
            )
        return _ready(spec, ready)
    if spec.task is Task.CAUSAL_LM:
        return _language(spec, folder, float_weights(folder), adapter, prefix_in)
    require_room(float_weights(folder), where=str(folder))
    try:
        if adapter is None:
            loaded = LOADERS[spec.task](spec, folder)
        else:
            loaded = load_text_encoder(spec, folder, adapter)
        with torch.no_grad():
            loaded.module(**loaded.probe)
    except Exception as exc:  # transformers, safetensors and torch raise their own kinds here
        raise BadInput(
            f"source: {folder} cannot be loaded as {spec.task}: {_first_line(exc)}"
        ) from exc
    model = to_onnx(
        loaded.module, loaded.probe, loaded.shapes, list(loaded.probe), [TRAITS[spec.task].output]
    )
    onnx.helper.set_model_props(model, dict(loaded.properties))
    _require_original(model, loaded.originals)
    return model


def _language(
    spec: ModelSpec,
    folder: Path,
    size: int,
    adapter: Path | None,
    prefix_in: PrefixTexts | None,
) -> onnx.ModelProto:
    """Export the decoder of so many bytes in float32 with its cache.

    It is checked where it reads a text at once, and where it adds one token to a cache.
    """
    if are_large(size):
        mapped = adapter is None and not is_gguf(folder)
        largest = largest_float_weight(folder) if mapped else 0
        require_room_beside(size, largest, where=str(folder), mapped=mapped)
    else:
        require_room(size, where=str(folder))
    exported = _decoder(spec, folder, size, adapter, prefix_in, template=True)
    try:
        return _held(exported)
    except BadInput:
        if not exported.repeated:
            raise
    # The layers differ in more than their weights: each of them is traced.
    return _held(_decoder(spec, folder, size, adapter, prefix_in, template=False))


@dataclass(frozen=True, slots=True, eq=False)
class _ExportedDecoder:
    """A decoder's graph, and what it is held against; torch's model is gone."""

    model: onnx.ModelProto
    repeated: bool  # from a template of few layers
    layout: CacheLayout
    runs: Sequence["_Run"]
    original: OriginalText | None
    prefix: FoundPrefix | None


def _decoder(
    spec: ModelSpec,
    folder: Path,
    size: int,
    adapter: Path | None,
    prefix_in: PrefixTexts | None,
    *,
    template: bool,
) -> _ExportedDecoder:
    longest = spec.input.max_length + spec.input.new_tokens
    try:
        module, layout, probe, shapes = load_decoder(
            folder, longest, beside=are_large(size), adapter=adapter, prefix_in=prefix_in
        )
        with torch.no_grad():
            module(**probe)
    except Exception as exc:  # transformers, safetensors and torch raise their own kinds here
        raise BadInput(
            f"source: {folder} cannot be loaded as {spec.task}: {_first_line(exc)}"
        ) from exc
    cases = (probe, cut(probe, 2, 0, 7), cut(probe, 3, 5, 1), cut(probe, 1, 0, 1))
    runs = [_run(module, case) for case in cases]
    model = None
    if template:
        model = decoder_from_template(module, layout, probe, shapes, beside=are_large(size))
    repeated = model is not None
    if model is None:
        model = to_onnx(module, probe, shapes, list(layout.inputs), list(layout.outputs))
    return _ExportedDecoder(model, repeated, layout, runs, module.original, module.found)


def _held(exported: _ExportedDecoder) -> onnx.ModelProto:
    """Mark a decoder's graph, and return it where it computes what torch computed."""
    gc.collect()  # torch's model refers to itself; the engine needs the room
    return_freed()
    model = exported.model
    mark(model, exported.layout)
    if exported.prefix is not None:
        mark_prefix(model, exported.prefix)
    engine = open_target("onnxruntime-cpu").load_exact(model.SerializeToString(), {})
    for run in exported.runs:
        _compare(engine, run)
    if exported.original is not None:
        _compare_with_original(engine, exported.layout, exported.original)
    return model


def _compare_with_original(engine: Engine, layout: CacheLayout, original: OriginalText) -> None:
    """Hold the graph against the untouched model: at once, and its last tokens over a cache."""
    ids, mask = original.ids.numpy(), original.mask.numpy()
    expected, real = original.logits.numpy(), mask > 0
    cases, tokens = ids.shape
    cache = {
        f"past.{name}": np.zeros((cases, heads, 0, width), np.float32)
        for place, (heads, width) in enumerate(layout.layers)
        for name in (f"{place}.key", f"{place}.value")
    }
    for begins in ((0,), (0, tokens // 2, tokens - 1)):
        logits, feeds = [], dict(cache)
        for start, end in zip(begins, (*begins[1:], tokens), strict=True):
            outputs = engine.run(
                feeds
                | {
                    "input_ids": ids[:, start:end],
                    "attention_mask": mask[:, start:end],
                    "position_ids": np.tile(np.arange(start, end), (cases, 1)),
                    "past_mask": mask[:, :start],
                }
            )
            logits.append(outputs["logits"])
            feeds = {name: outputs[name.replace("past.", "present.", 1)] for name in cache}
        difference = float(np.abs(np.concatenate(logits, 1) - expected)[real].max())
        if not difference < TOLERANCE * max(1.0, float(np.abs(expected[real]).max())):
            raise BadInput(
                f"source: over {tokens} tokens the exported graph differs by {difference:.2g} from "
                "the model called as its users call it, whose attention it does not reproduce; "
                "bring a model.onnx with its cache instead"
            )


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
        """Return logits: images [batch, channels, height, width] -> [batch, classes]."""
        image = torch.relu(self.conv1(image))
        image = torch.max_pool2d(torch.relu(self.conv2(image)), 2)
        hidden: torch.Tensor = self.fc2(torch.relu(self.fc1(image.flatten(1))))
        return hidden


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]


def _ready(spec: ModelSpec, path: Path) -> onnx.ModelProto:
    model = load_graph(path)
    given = spec.input.tensors
    fix_sizes(model, {name: item.shape for name, item in given.items() if item.shape})
    fix_values(model, fixed_values(model, spec.input.fixed))
    model = make_canonical(model, where=str(path))
    inputs = {item.name for item in model.graph.input}
    outputs = [item.name for item in model.graph.output]
    traits = TRAITS[spec.task]
    if spec.task is Task.CAUSAL_LM:
        _require_cache(model, path)
    elif spec.task is Task.CUSTOM:
        pass  # any names: the spec says what they mean
    elif spec.task is not Task.SPEECH_RECOGNITION:
        _require_names(spec, model, path)
    elif not inputs <= set(traits.feeds) or traits.output not in outputs:
        raise BadInput(
            f"source: {path} maps {', '.join(sorted(inputs))} to {', '.join(outputs)}; "
            f"{spec.task} needs {', '.join(traits.feeds)} to {traits.output}"
        )
    if spec.task is Task.SPEECH_RECOGNITION:
        _require_hearing(model, path)
    return model


def _require_names(spec: ModelSpec, model: onnx.ModelProto, path: Path) -> None:
    try:
        graph_names(spec, model)
    except BadInput as exc:
        raise BadInput(f"source: {path}: {exc}") from exc


def _require_cache(model: onnx.ModelProto, path: Path) -> None:
    try:
        read_layout(model)
    except ValueError as exc:
        raise BadInput(
            f"source: {path} is no decoder with a cache: {exc}; see tasks.models.language.decoder"
        ) from exc


def _require_hearing(model: onnx.ModelProto, path: Path) -> None:
    try:
        read_hearing(model)
    except ValueError as exc:
        raise BadInput(
            f"source: {path} is no speech model: {exc}; see tasks.models.speech.recognizer"
        ) from exc


def _ints(value: list[int] | int | str) -> list[int]:
    if not isinstance(value, list):
        message = f"config.json: {value!r} should be a list of numbers"
        raise ValueError(message)  # noqa: TRY004  # caught with the rest
    return value


def _image(spec: ModelSpec, folder: Path) -> Loaded:
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if architecture != "requant-convnet":
        raise ValueError(
            f"config.json names architecture {architecture!r}; bring a model.onnx instead"
        )
    module = ConvNet(config)
    module.load_state_dict(load_file(folder / "weights.safetensors"))
    image = torch.rand(3, *(spec.input.shape or ()), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = module.eval()(image).numpy()
    runs = tuple(OriginalRun({"image": image[:size]}, answers[:size]) for size in (3, 1, 2))
    return Loaded(module, {"image": image}, {"image": {0: Dim("batch", min=1, max=1024)}}, runs)


LOADERS: Mapping[Task, Callable[[ModelSpec, Path], Loaded]] = {
    Task.TEXT_EMBEDDING: load_text_encoder,
    Task.IMAGE_CLASSIFICATION: _image,
    Task.IMAGE_EMBEDDING: load_image_encoder,
    Task.SPEECH_RECOGNITION: load_recognizer,
}
"""From a folder to a module.

A language model's cache wants more than one probe, so it is exported by itself.
"""


def _require_original(model: onnx.ModelProto, runs: Sequence[OriginalRun]) -> None:
    """Raise where the graph answers otherwise than the untouched model did."""
    engine = open_target("onnxruntime-cpu").load(model.SerializeToString())
    for run in runs:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in run.feeds.items())
        try:
            outputs = engine.run({name: value.numpy() for name, value in run.feeds.items()})
        except BadInput as exc:
            raise BadInput(
                f"source: the exported graph does not run on {shapes}: {exc}; bring a model.onnx "
                "instead"
            ) from exc
        (output,) = outputs.values()
        same_shape = output.shape == run.answer.shape
        difference = float(np.abs(output - run.answer).max()) if same_shape else float("inf")
        if not difference < TOLERANCE * max(1.0, float(np.abs(run.answer).max())):
            raise BadInput(
                f"source: on {shapes} the exported graph differs by {difference:.2g} from the "
                "model called as its users call it, which it does not reproduce; bring a "
                "model.onnx instead"
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What torch answers to feeds of the graph."""

    feeds: Mapping[str, NDArray[np.generic]]
    answers: tuple[NDArray[np.floating], ...]


def _run(module: nn.Module, probe: DecoderProbe) -> _Run:
    with torch.no_grad():
        returned = module(**probe)
    answers = returned if isinstance(returned, tuple) else (returned,)
    feeds = {name: tensor.numpy() for name, tensor in flatten(probe).items()}
    return _Run(feeds, tuple(tensor.numpy() for tensor in answers))


def _compare(engine: Engine, run: _Run) -> None:
    try:
        outputs = engine.run(run.feeds)
    except BadInput as exc:
        raise BadInput(f"source: the exported graph does not run on other shapes: {exc}") from exc
    for expected, output in zip(run.answers, outputs.values(), strict=True):
        same_shape = output.shape == expected.shape
        difference = float(np.abs(output - expected).max()) if same_shape else float("inf")
        if not difference < TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise BadInput(
                f"source: the exported graph differs from torch by {difference:.2g}; the export "
                "cannot be trusted"
            )
