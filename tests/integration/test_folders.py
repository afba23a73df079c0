"""Golden set and pool from a folder and a table, then a model that reads image files."""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from infra.settings import Settings
from tests.custom_models import SPEC

SIDE = 12


def png(number: int) -> bytes:
    rng, buffer = np.random.default_rng(number), io.BytesIO()
    pixels = rng.integers(0, 60, (SIDE, SIDE, 3)) + np.eye(3, dtype=int)[number % 3] * 190
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def colours() -> onnx.ModelProto:
    """Return a classifier of the strongest channel, with any height and width."""
    rng, value = np.random.default_rng(0), helper.make_tensor_value_info
    kernel = rng.standard_normal((8, 3, 3, 3)) / math.sqrt(27)
    kernel[:3] = np.eye(3)[:, :, None, None] / 9
    weights = {"k": kernel, "w": np.eye(8, 3)}
    nodes = [
        helper.make_node("Conv", ["img", "k"], ["c"], "conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "w"], ["out"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [value("img", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [value("out", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def run(*words: str) -> Any:
    from flows.cli import app

    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.mark.timeout(200)
def test_a_folder_of_images_becomes_a_model_that_reads_what_users_send(
    workspace: Settings, tmp_path: Path
) -> None:
    for number in range(60):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    for name, numbers in {"golden": range(24), "pool": range(24, 60)}.items():
        rows = [f"{number}.png,{('day', 'night')[number % 2]},{number % 3}" for number in numbers]
        (tmp_path / f"{name}.csv").write_text("\n".join(["file,domain,label", *rows]))
        table, output = tmp_path / f"{name}.csv", tmp_path / f"{name}.parquet"
        text = run(name, "build", str(tmp_path), "--labels", str(table), "--output", str(output))
        assert "day, night" in text
    onnx.save(colours(), tmp_path / "model.onnx")
    steps = [{"step": "normalise"}]
    changes = {
        "name": "colours",
        "input": {"preprocess": {"reads": "image", "steps": steps}},
        "metrics": [{"name": "accuracy", "budget": 0.3}, {"name": "cosine", "budget": 0.9}],
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(SPEC | changes))
    run("model", "add", str(tmp_path / "model.yaml"))
    from tasks.models.catalog import open_model

    right = [
        case.label == str(int(out["out"].argmax()))
        for case, out in zip(
            open_model("colours").golden.cases, open_model("colours").golden_records, strict=True
        )
    ]
    assert all(right)
    lines = [
        {
            "request_id": f"r{n}",
            "time": "2026-03-01T11:00:00Z",
            "image": base64.b64encode(data).decode(),
        }
        for n, data in enumerate([png(100), png(101), b"no image"])
    ]
    (tmp_path / "day.jsonl").write_text("\n".join(map(json.dumps, lines)))
    from flows.commands.imports import take_in

    taken = take_in(str(tmp_path / "day.jsonl"), "colours")
    assert (taken.accepted, taken.rejected) == (2, 1)
    assert "the image cannot be read" in next(iter(taken.reasons))
