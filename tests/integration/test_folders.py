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


def write_tables(folder: Path) -> list[str]:
    """Write images, and build golden set and pool of them; return what was printed."""
    for number in range(60):
        (folder / f"{number}.png").write_bytes(png(number))
    printed = []
    for name, numbers in {"golden": range(24), "pool": range(24, 60)}.items():
        rows = [f"{number}.png,{('day', 'night')[number % 2]},{number % 3}" for number in numbers]
        table, output = folder / f"{name}.csv", folder / f"{name}.parquet"
        table.write_text("\n".join(["file,domain,label", *rows]))
        printed.append(
            run(name, "build", str(folder), "--labels", str(table), "--output", str(output))
        )
    return printed


def write_spec(folder: Path, *steps: dict[str, str]) -> None:
    """Write the model and its spec; the steps come after normalising."""
    onnx.save(colours(), folder / "model.onnx")
    changes = {
        "name": "colours",
        "input": {"preprocess": {"reads": "image", "steps": [{"step": "normalise"}, *steps]}},
        "metrics": [{"name": "accuracy", "budget": 0.3}, {"name": "cosine", "budget": 0.9}],
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(SPEC | changes))


@pytest.mark.timeout(200)
def test_a_folder_of_images_becomes_a_model_that_reads_what_users_send(
    workspace: Settings, tmp_path: Path
) -> None:
    assert all("day, night" in text for text in write_tables(tmp_path))
    write_spec(tmp_path)
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


@pytest.mark.timeout(200)
def test_a_preprocess_that_changed_since_registration_is_refused_until_it_is_added_again(
    workspace: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.commands.imports import take_in
    from infra.errors import RequantError
    from tasks.models import catalog
    from tasks.models.catalog import open_model, register
    from tasks.preprocess import prepare

    own = tmp_path / "requant_halved.py"
    own.write_text("def halve(x):\n    return x / 2\n")
    trusting = workspace.model_copy(update={"trusted_metrics": str(tmp_path)})
    monkeypatch.setattr(prepare, "settings", lambda: trusting)
    write_tables(tmp_path)
    write_spec(tmp_path, {"step": "function", "function": "requant_halved:halve"})
    register(tmp_path / "model.yaml")
    line = {"request_id": "r", "time": "2026-03-01T11:00:00Z"}
    day = tmp_path / "day.jsonl"
    day.write_text(json.dumps(line | {"image": base64.b64encode(png(7)).decode()}))
    assert take_in(str(day), "colours").accepted == 1
    own.write_text("def halve(x):\n    return x / 3\n")
    catalog._opened.cache_clear()
    with pytest.raises(RequantError, match=r"^the preprocess of colours is not what it was"):
        _ = open_model("colours").inputs
    register(tmp_path / "model.yaml")
    assert open_model("colours").inputs is not None
