"""A small ranking model with inputs and outputs of its own, and requests for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from infra.identifiers import RequestId
from tasks.models.corpus import EPOCH, write_corpus
from tasks.models.golden import write_golden
from tasks.records import GoldenCase, Record, Request

WORDS, FEATURES = 6, 12
SPEC: dict[str, object] = {
    "version": 1,
    "name": "ranker",
    "source": ".",
    "task": "custom",
    "input": {},
    "data": {"calibration": "pool.parquet"},
    "golden": {"cases": "golden.parquet"},
    "budgets": {
        "latency_ratio": 50.0,
        "size_ratio": 1.5,
        "peak_memory_ratio": 3.0,
    },
    "metrics": [{"name": "cosine", "budget": 0.95}],
    "targets": ["onnxruntime-cpu"],
    "schedule": {"slug": "nightly", "cron": "0 3 * * *"},
}


def ranker(batch: str | int = "n", *, seed: int = 0) -> onnx.ModelProto:
    """Return word ids [n, 6] and features [n, 12] to scores [n, 3] and an embedding [n, 16]."""
    rng = np.random.default_rng(seed)
    weights = {
        "table": rng.standard_normal((50, 8)),
        "hidden.weight": rng.standard_normal((WORDS * 8 + FEATURES, 64)) / 8,
        "embed.weight": rng.standard_normal((64, 16)) / 4,
        "score.weight": rng.standard_normal((16, 3)) / 2,
    }
    shapes = {"flat": [0, WORDS * 8]}
    nodes = [
        helper.make_node("Gather", ["table", "word ids"], ["rows"], "gather"),
        helper.make_node("Reshape", ["rows", "flat"], ["words"], "flatten"),
        helper.make_node("Concat", ["words", "features"], ["joined"], "join", axis=1),
        helper.make_node("MatMul", ["joined", "hidden.weight"], ["raw"], "hidden"),
        helper.make_node("Relu", ["raw"], ["hidden.out"], "relu"),
        helper.make_node("MatMul", ["hidden.out", "embed.weight"], ["embedding_0"], "embed"),
        helper.make_node("MatMul", ["embedding_0", "score.weight"], ["fetch_name_0"], "score"),
    ]
    initializers = [
        *(numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()),
        *(numpy_helper.from_array(np.array(s, np.int64), name) for name, s in shapes.items()),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "ranker",
        [
            value("word ids", TensorProto.INT32, [batch, WORDS]),
            value("features", TensorProto.FLOAT, [batch, FEATURES]),
        ],
        [
            value("fetch_name_0", TensorProto.FLOAT, [batch, 3]),
            value("embedding_0", TensorProto.FLOAT, [batch, 16]),
        ],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def records(count: int, *, seed: int = 1) -> list[Record]:
    """Return what so many requests carry."""
    rng = np.random.default_rng(seed)
    return [
        {
            "word ids": rng.integers(0, 50, WORDS).astype(np.int32),
            "features": rng.standard_normal(FEATURES).astype(np.float32),
        }
        for _ in range(count)
    ]


def requests(payloads: Sequence[Record], *, labels: Sequence[str] | None = None) -> list[Request]:
    """Return one request for each."""
    return [
        Request(
            request_id=RequestId(f"r{number}"),
            time=EPOCH,
            tenant=f"t{number % 4}",
            domain=("shop", "search")[number % 2],
            language="en",
            payload=payload,
            label=labels[number] if labels else None,
        )
        for number, payload in enumerate(payloads)
    ]


def write_model(
    folder: Path,
    model: onnx.ModelProto,
    payloads: Sequence[Record],
    *,
    labels: Sequence[str] | None = None,
    **changes: object,
) -> Path:
    """Write a folder as a user brings it; a quarter of the payloads is the golden set."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    given = requests(payloads, labels=labels)
    golden = [
        GoldenCase(item.request_id, item.payload, item.domain, item.language, label=item.label)
        for item in given[::4]
    ]
    pool = [item for number, item in enumerate(given) if number % 4]
    (folder / "golden.parquet").write_bytes(write_golden(golden))
    (folder / "pool.parquet").write_bytes(write_corpus(pool))
    (folder / "model.yaml").write_text(yaml.safe_dump(SPEC | changes))
    return folder / "model.yaml"
