"""A tied table is once in the graph, as in its checkpoint; what is not tied stays apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file, save_file

from infra.settings import Settings
from tasks.graphs.weights import inside
from tasks.models.language.decoder import load_decoder
from tasks.models.tracing.tied_tables import share_tables, tied_tables
from tests.language_folders import write_folder

WEIGHTS, HEAD = "model.safetensors", "lm_head.weight"


@pytest.mark.parametrize("beside", [False, True])
def test_a_head_that_is_stored_beside_its_table_is_a_matrix_of_its_own(
    beside: bool, tmp_path: Path, workspace: Settings
) -> None:
    folder = write_folder(tmp_path, "llama")
    assert tied_tables(load_decoder(folder, 40, beside=beside)[0])
    tensors = load_file(folder / WEIGHTS)
    tensors[HEAD] = tensors["model.embed_tokens.weight"] * 2
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    assert not tied_tables(load_decoder(folder, 40, beside=beside)[0])


def test_equal_numbers_in_two_tensors_are_not_tied() -> None:
    table = torch.nn.Parameter(torch.ones(5, 3))
    module = torch.nn.ParameterDict({"table": table, "head": torch.nn.Parameter(torch.ones(3, 5))})
    assert not tied_tables(module)
    module["table"] = torch.nn.Parameter(module["head"].T)
    assert tied_tables(module) == {"table": "head"}


def embedding(*others: onnx.NodeProto) -> onnx.ModelProto:
    """Return rows of a table, times a matrix."""
    nodes = [
        onnx.helper.make_node("Gather", ["table", "ids"], ["rows"], "embed"),
        *others,
        onnx.helper.make_node("MatMul", ["rows", "head"], ["y"], "head"),
    ]
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["batch", "tokens"])
    ends = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    table = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    weights = [inside(table, "table"), inside(table.T, "head")]
    graph = onnx.helper.make_graph(nodes, "g", [ids], [ends], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])


def answer(model: onnx.ModelProto) -> Any:
    ids = np.asarray([[4, 0, 1], [2, 2, 3]])
    return ReferenceEvaluator(model).run(None, {"ids": ids})[0]


def test_an_embedding_reads_the_matrix_that_its_table_is_tied_to() -> None:
    model = embedding()
    before = answer(model)
    assert share_tables(model, {"table": "head"}) == {"table"}
    assert [item.name for item in model.graph.initializer] == ["head"]
    np.testing.assert_array_equal(answer(model), before)


def test_a_table_that_is_read_otherwise_than_by_rows_is_kept() -> None:
    model = embedding(onnx.helper.make_node("ReduceMax", ["table"], ["largest"], "other"))
    before = model.SerializeToString()
    assert not share_tables(model, {"table": "head"})
    assert model.SerializeToString() == before
