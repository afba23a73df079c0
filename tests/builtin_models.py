"""Seven small models, one for each kind of label that a built-in measure reads.

Each is written as its owner has it: a graph, files in a folder, and labels that the graph itself
gave, so that full precision is right.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from scipy.io import wavfile

Numbers = NDArray[np.generic]
CASES = 48
RATE, BANDS = 8000, 16


@dataclass(frozen=True)
class Task:
    """One kind of model: how it is drawn, what it reads, and how it is judged."""

    graph: onnx.ModelProto
    input: Mapping[str, Any]  # of the spec
    metrics: Sequence[Mapping[str, Any]]
    draw: Callable[[np.random.Generator], tuple[str, bytes]]  # an extension and a file's bytes
    label: Callable[[Mapping[str, Numbers]], object]  # of full precision's outputs
    files: Mapping[str, bytes] = field(default_factory=dict)  # beside the graph
    suffix: str = ""  # of labels that are files


def graph(
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, NDArray[Any]],
) -> onnx.ModelProto:
    """Return a model of these nodes, (operator, inputs, outputs, attributes) each."""
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        [
            helper.make_node(operator, list(reads), list(writes), f"node_{n}", **attributes)
            for n, (operator, reads, writes, attributes) in enumerate(nodes)
        ],
        "small",
        [value(name, kind, list(shape)) for name, (kind, shape) in inputs.items()],
        [value(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()],
        [
            numpy_helper.from_array(
                array if array.dtype == np.int64 else array.astype(np.float32), name
            )
            for name, array in weights.items()
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    """Return weights that keep a signal's size."""
    fan = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
    return np.random.default_rng(seed).standard_normal(shape) / np.sqrt(fan)


def picture(height: int, width: int) -> Callable[[np.random.Generator], tuple[str, bytes]]:
    """Return what draws smooth coloured blots as PNG."""

    def draw(rng: np.random.Generator) -> tuple[str, bytes]:
        coarse = rng.integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return "png", buffer.getvalue()

    return draw


def tone(rng: np.random.Generator) -> tuple[str, bytes]:
    """Return half a second of a tone that begins and ends."""
    time = np.arange(RATE // 2) / RATE
    on = (time > rng.uniform(0, 0.2)) & (time < rng.uniform(0.3, 0.5))
    wave = np.sin(2 * np.pi * rng.uniform(200, 3000) * time) * on
    buffer = io.BytesIO()
    wavfile.write(buffer, RATE, (wave * 20_000).astype(np.int16))
    return "wav", buffer.getvalue()


def words(rng: np.random.Generator) -> tuple[str, bytes]:
    """Return six words that the tests' tokenizer knows."""
    return "txt", " ".join(rng.choice(["a", "b", "c", "d", "red", "green", "blue"], 6)).encode()


def features(rng: np.random.Generator) -> tuple[str, bytes]:
    """Return twelve numbers as .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, features=rng.standard_normal(12).astype(np.float32))
    return "npz", buffer.getvalue()


IMAGE = {"preprocess": {"reads": "image", "steps": [{"step": "normalise"}]}}
SOUND = {
    "preprocess": {
        "reads": "audio",
        "steps": [{"step": "log-mel", "rate": RATE, "bands": BANDS, "window": 256, "hop": 128}],
    }
}


def segmentation() -> Task:
    """Return three classes of each pixel; labels are masks in PNG files."""
    made = graph(
        [
            ("Conv", ["x", "k"], ["c"], {"pads": [1, 1, 1, 1]}),
            ("Relu", ["c"], ["r"], {}),
            ("Conv", ["r", "h"], ["scores"], {}),
        ],
        {"x": (TensorProto.FLOAT, ["n", 3, "height", "width"])},
        {"scores": ["n", 3, "height", "width"]},
        {"k": normal(8, 3, 3, 3), "h": normal(3, 8, 1, 1)},
    )
    metrics = [{"name": "miou", "budget": 0.2}]
    return Task(made, IMAGE, metrics, picture(16, 16), _mask, suffix="png")


def _mask(outputs: Mapping[str, Numbers]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(outputs["scores"].argmax(axis=0).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def detection() -> Task:
    """Return four boxes and their scores; labels are JSON."""
    made = graph(
        [
            ("Conv", ["image", "k"], ["c"], {"strides": [4, 4]}),
            ("Relu", ["c"], ["r"], {}),
            ("Flatten", ["r"], ["f"], {}),
            ("MatMul", ["f", "w"], ["b"], {}),
            ("Add", ["b", "bias"], ["placed"], {}),
            ("Reshape", ["placed", "four"], ["boxes"], {}),
            ("MatMul", ["f", "s"], ["raw"], {}),
            ("Sigmoid", ["raw"], ["scores"], {}),
        ],
        {"image": (TensorProto.FLOAT, ["n", 3, 16, 16])},
        {"boxes": ["n", 4, 4], "scores": ["n", 4]},
        {
            "k": normal(8, 3, 4, 4),
            "w": normal(128, 16),
            "s": 4 * normal(128, 4, seed=1),
            "bias": np.array([[cx, cy, 24.0, 24.0] for cx in (20, 60) for cy in (20, 60)]).ravel(),
            "four": np.array([0, 4, 4]),
        },
    )
    roles = {"boxes": "boxes", "scores": "scores"}
    metrics = [{"name": "map", "outputs": roles, "boxes": "cxcywh", "budget": 0.2}]
    return Task(made, IMAGE, metrics, picture(16, 16), _boxes)


def _boxes(outputs: Mapping[str, Numbers]) -> object:
    best = outputs["scores"].argsort()[-2:]
    return {"boxes": np.round(outputs["boxes"][best], 3).tolist(), "labels": [0] * len(best)}


def reading() -> Task:
    """Return a CTC head over columns of a line; labels are words."""
    made = graph(
        [
            ("Conv", ["x", "k"], ["c"], {"strides": [1, 4]}),
            ("Relu", ["c"], ["r"], {}),
            ("Squeeze", ["r", "two"], ["columns"], {}),
            ("Transpose", ["columns"], ["steps"], {"perm": [0, 2, 1]}),
            ("MatMul", ["steps", "w"], ["letters"], {}),
        ],
        {"x": (TensorProto.FLOAT, ["n", 3, 8, "width"])},
        {"letters": ["n", "steps", 5]},
        {"k": normal(16, 3, 8, 4), "w": 4 * normal(16, 5), "two": np.array([2])},
    )
    metrics = [
        {"name": "cer", "charset": "abcd", "budget": 0.3},
        {"name": "exact-match", "charset": "file:letters.txt", "budget": 0.9},
    ]
    letters = {"letters.txt": b"a\nb\nc\nd\n"}
    return Task(made, IMAGE, metrics, picture(8, 48), _letters, letters)


def _letters(outputs: Mapping[str, Numbers]) -> str:
    best = outputs["letters"].argmax(axis=1).tolist()
    kept = [place for place, before in zip(best, [0, *best], strict=False) if place != before]
    return "".join("-abcd"[place] for place in kept if place)


def hearing() -> Task:
    """Return one of three kinds of sound; labels are their names."""
    made = graph(
        [
            ("ReduceMean", ["mel"], ["mean"], {"axes": [2], "keepdims": 0}),
            ("MatMul", ["mean", "w"], ["raw"], {}),
            ("Relu", ["raw"], ["r"], {}),
            ("MatMul", ["r", "h"], ["scores"], {}),
        ],
        {"mel": (TensorProto.FLOAT, ["n", BANDS, "frames"])},
        {"scores": ["n", 3]},
        {"w": normal(BANDS, 32), "h": normal(32, 3)},
    )
    names = ["low", "middle", "high"]
    metrics = [{"name": "accuracy", "classes": names, "budget": 0.4}]
    return Task(made, SOUND, metrics, tone, lambda made: names[int(made["scores"].argmax())])


def events() -> Task:
    """Return two events of each frame; labels are .npy files."""
    made = graph(
        [
            ("Conv", ["mel", "k"], ["c"], {"pads": [1, 1]}),
            ("Relu", ["c"], ["r"], {}),
            ("Transpose", ["r"], ["frames_first"], {"perm": [0, 2, 1]}),
            ("MatMul", ["frames_first", "w"], ["raw"], {}),
            ("Sigmoid", ["raw"], ["events"], {}),
        ],
        {"mel": (TensorProto.FLOAT, ["n", BANDS, "frames"])},
        {"events": ["n", "frames", 2]},
        {"k": normal(8, BANDS, 3), "w": 4 * normal(8, 2)},
    )
    metrics = [{"name": "frame-f1", "budget": 0.3}]
    return Task(made, SOUND, metrics, tone, _frames, suffix="npy")


def _frames(outputs: Mapping[str, Numbers]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, (outputs["events"] > 0.5).astype(np.uint8))
    return buffer.getvalue()


def tagging() -> Task:
    """Return one of three classes of each token; labels are JSON lists."""
    from tests.kind_folders import tokenizer

    made = graph(
        [
            ("Gather", ["table", "ids"], ["rows"], {}),
            ("MatMul", ["rows", "w"], ["raw"], {}),
            ("Relu", ["raw"], ["r"], {}),
            ("MatMul", ["r", "h"], ["tags"], {}),
        ],
        {"ids": (TensorProto.INT64, ["n", "tokens"])},
        {"tags": ["n", "tokens", 3]},
        {"table": normal(16, 16), "w": normal(16, 32), "h": normal(32, 3)},
    )
    step = {"step": "tokenize", "ids": "ids", "mask": None}
    rules = {
        "tokenizer": "tokenizer.json",
        "preprocess": {"reads": "text", "steps": [step]},
    }
    files = {"tokenizer.json": tokenizer().to_str().encode()}
    metrics = [{"name": "token-f1", "ignore": -100, "budget": 0.4}]
    return Task(
        made, rules, metrics, words, lambda made: made["tags"].argmax(axis=1).tolist(), files
    )


def regression() -> Task:
    """Return one number; labels are numbers."""
    made = graph(
        [
            ("MatMul", ["features", "w"], ["raw"], {}),
            ("Relu", ["raw"], ["r"], {}),
            ("MatMul", ["r", "h"], ["price"], {}),
        ],
        {"features": (TensorProto.FLOAT, ["n", 12])},
        {"price": ["n", 1]},
        {"w": normal(12, 32), "h": normal(32, 1)},
    )
    metrics = [
        {"name": "absolute-error", "budget": 0.1},
        {"name": "squared-error", "budget": 0.1},
    ]
    return Task(made, {}, metrics, features, lambda made: round(float(made["price"][0]), 4))


TASKS: Mapping[str, Callable[[], Task]] = {
    "segmentation": segmentation,
    "detection": detection,
    "reading": reading,
    "hearing": hearing,
    "events": events,
    "tagging": tagging,
    "regression": regression,
}


def request(kind: str, data: bytes) -> dict[str, object]:
    """Return a file as a line of JSON Lines carries it."""
    if kind == "txt":
        return {"text": data.decode()}
    if kind == "npz":
        with np.load(io.BytesIO(data)) as arrays:
            return {"tensors": {name: arrays[name].tolist() for name in arrays.files}}
    return {{"png": "image", "wav": "audio"}[kind]: base64.b64encode(data).decode()}


def write_files(folder: Path, task: Task, seed: int) -> list[Path]:
    """Write so many files in nested folders; return their paths."""
    rng, paths = np.random.default_rng(seed), []
    for number in range(CASES):
        kind, data = task.draw(rng)
        path = folder / f"part{number % 2}" / f"{seed}-{number}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.append(path)
    return paths


def write_table(folder: Path, paths: Sequence[Path], labels: Sequence[object], suffix: str) -> Path:
    """Write the table of labels as JSON Lines; those that are bytes become files."""
    lines = []
    for number, (path, label) in enumerate(zip(paths, labels, strict=True)):
        row: dict[str, object] = {
            "file": path.relative_to(folder).as_posix(),
            "domain": ("day", "night")[number % 2],
        }
        if isinstance(label, bytes):
            name = f"labels/{path.stem}.{suffix}"
            (folder / "labels").mkdir(exist_ok=True)
            (folder / name).write_bytes(label)
            row["label_file"] = name
        else:
            row["label"] = label
        lines.append(json.dumps(row))
    table = folder / "golden.jsonl"
    table.write_text("\n".join(lines))
    return table
