"""Weights beside a graph are loaded, or refused in one sentence before any of them is read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from infra.engines import open_target
from infra.errors import BadInput, NotFound, Unavailable
from infra.settings import Settings, use_workspace
from infra.weights.naming import tensors_beside, weight_file
from tasks.graphs.files import (
    LIMIT,
    float_weights,
    largest_float_weight,
    load_graph,
    require_room,
    require_room_beside,
)
from tasks.graphs.weights import constant_values
from tasks.models.export import export
from tasks.specs.spec import load_spec
from tests import graphs

DIGITS = Path(__file__).parents[4] / "examples" / "digits"
WEIGHT = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)


def saved(folder: Path, **changes: str) -> Path:
    """Save a product whose weight lies in `weights.bin`.

    `changes` are entries of its external data.
    """
    path = folder / "model.onnx"
    onnx.save(
        graphs.product(WEIGHT),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    if changes:
        model = onnx.load(path, load_external_data=False)
        entries = model.graph.initializer[0].external_data
        for key, value in changes.items():
            next(one for one in entries if one.key == key).value = value
        path.write_bytes(model.SerializeToString())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        load_graph(path)
    text = str(caught.value)
    assert text.startswith("source: ")
    assert "\n" not in text
    return text


def test_weights_beside_the_graph_are_taken_inside(tmp_path: Path) -> None:
    model = load_graph(saved(tmp_path))
    assert not any(item.data_location == TensorProto.EXTERNAL for item in model.graph.initializer)
    x = np.ones((2, 8), np.float32)
    assert np.array_equal(graphs.run(model, x), graphs.run(graphs.product(WEIGHT), x))


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (tmp_path / "weights.bin").unlink()
    assert "takes weight val_0 from 'weights.bin', which is not there: copy it" in refusal(path)


def test_a_file_that_was_cut_short_is_named_with_both_sizes(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:100])
    assert "ends at byte 192 of 'weights.bin', which has 100: the file was cut short" in refusal(
        path
    )


@pytest.mark.parametrize("length", ["3", "190"])
def test_fewer_bytes_than_the_shape_asks_for_are_refused(tmp_path: Path, length: str) -> None:
    path = saved(tmp_path, length=length)
    (tmp_path / "weights.bin").write_bytes(b"0" * 100)
    assert "cut short" in refusal(path)


def test_other_bytes_than_the_shape_asks_for_are_refused_wherever_they_lie(tmp_path: Path) -> None:
    assert "holds 188 bytes of weight val_0, whose shape [8, 6] asks for 192" in refusal(
        saved(tmp_path, length="188")
    )
    model = graphs.product(WEIGHT)
    stored = model.graph.initializer[0]
    for data, field in ((b"\0" * 4, "raw_data"), ([1.0] * 3, "float_data")):
        stored.ClearField("raw_data")
        if field == "raw_data":
            stored.raw_data = data
        else:
            stored.float_data.extend(data)
        (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
        assert "weight val_0" in refusal(tmp_path / "model.onnx")
    stored.dims[0] = -8
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert "the shape [-8, 6]" in refusal(tmp_path / "model.onnx")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin", ""])
def test_a_path_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = saved(folder, location=location)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    assert "outside the model's folder: put all files of the model into one folder" in refusal(path)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_is_refused_wherever_it_leads(tmp_path: Path, link: object) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = saved(folder)
    (folder / "weights.bin").rename(tmp_path / "elsewhere.bin")
    link(tmp_path / "elsewhere.bin", folder / "weights.bin")  # type: ignore[operator]  # os.link or os.symlink
    assert "weights.bin" in refusal(path)
    if link is os.link:
        assert refusal(path).endswith("copy the folder without links, by cp -rL")


@pytest.mark.parametrize("offset", ["-1", "x"])
def test_a_place_that_is_no_number_is_refused(tmp_path: Path, offset: str) -> None:
    path = saved(tmp_path)
    model = onnx.load(path, load_external_data=False)
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "offset", offset
    path.write_bytes(model.SerializeToString())
    assert "places weight val_0 wrongly" in refusal(path)


def test_weights_that_are_large_together_move_to_files_of_their_own(
    tmp_path: Path, workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUANT_WEIGHTS_BESIDE_MIB", "0.001")
    chosen = use_workspace(workspace.root)
    numbers = {
        "beside": np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32),
        "inside": np.random.default_rng(1).standard_normal((32, 40)).astype(np.float32),
        "small": np.ones(40, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "beside"], ["h"], "a"),
        helper.make_node("MatMul", ["h", "inside"], ["i"], "b"),
        helper.make_node("Add", ["i", "small"], ["y"], "c"),
    ]
    model = graphs.model(nodes, numbers, {"x": ["n", 64]}, {"y": ["n", 40]})
    onnx.save(
        model,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=6000,
    )
    read = load_graph(tmp_path / "model.onnx")
    assert [item.name for item in tensors_beside(read)] == ["beside", "inside"]
    for item in read.graph.initializer:
        np.testing.assert_array_equal(constant_values(item), numbers[item.name])
    chosen.weights().path(weight_file(next(tensors_beside(read)))).unlink()
    with pytest.raises(NotFound):
        open_target("onnxruntime-cpu").load(read.SerializeToString())


def test_a_graph_file_that_is_itself_too_large_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(LIMIT + 1)
    before = _read_bytes()
    assert "2.15 GB" in refusal(tmp_path / "model.onnx")
    assert _read_bytes() - before < 1e6


def test_a_folder_of_safetensors_is_weighed_by_its_headers(tmp_path: Path) -> None:
    save_file({"a": np.zeros((10, 3), np.float16)}, tmp_path / "model-1.safetensors")
    save_file(
        {"b": np.zeros(5, np.float32)}, tmp_path / "model-2.safetensors", metadata={"format": "pt"}
    )
    assert float_weights(tmp_path) == 4 * 35
    assert largest_float_weight(tmp_path) == 4 * 30
    (tmp_path / "model-3.safetensors").write_bytes(b"damaged")
    assert float_weights(tmp_path) == 4 * 35


def test_a_folder_whose_weights_are_too_many_is_refused_before_they_are_loaded(
    tmp_path: Path,
) -> None:
    header = b'{"w":{"dtype":"F16","shape":[60000,10000],"data_offsets":[0,1200000000]}}'
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 1_200_000_000)
    with pytest.raises(BadInput, match=r"holds 2\.40 GB"):
        export(load_spec(DIGITS / "model.yaml"), tmp_path)


def test_the_limit_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.processes.memory.available", lambda root: 10 * LIMIT)
    require_room(LIMIT, where="x")
    with pytest.raises(BadInput, match="x holds"):
        require_room(LIMIT + 1, where="x")


def test_mapped_weights_have_to_fit_and_the_way_round_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("infra.processes.memory.available", lambda root: 20_000_000_000)
    require_room_beside(12_000_000_000, 1_600_000_000, where="x", mapped=True)
    with pytest.raises(
        Unavailable, match=r"x needs about 36\.\d GB .* 20\.0 GB: .*compressed-tensors"
    ):
        require_room_beside(32_000_000_000, 2_100_000_000, where="x", mapped=True)
    with pytest.raises(Unavailable, match=r"or register it on a larger machine$"):
        require_room_beside(12_000_000_000, 0, where="x", mapped=False)


def test_functions_of_the_graph_are_expanded_so_that_their_layers_are_seen(tmp_path: Path) -> None:
    function = helper.make_function(
        "own",
        "Layer",
        ["a", "b"],
        ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        [helper.make_opsetid("", 20)],
    )
    model = graphs.model(
        [helper.make_node("Layer", ["x", "w"], ["y"], "call", domain="own")],
        {"w": WEIGHT},
        {"x": ["n", 8]},
        {"y": ["n", 6]},
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, tmp_path / "model.onnx")
    assert [node.op_type for node in load_graph(tmp_path / "model.onnx").graph.node] == ["MatMul"]


def _read_bytes() -> int:
    """Return how many bytes this process asked the kernel for so far."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])
