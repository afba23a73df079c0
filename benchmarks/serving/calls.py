"""One request, in the words of each server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.load import Call
from benchmarks.serving.plan_gateway import NAME
from infra.gateway.wire.datatypes import datatype_of, to_bytes
from infra.gateway.wire.open_inference import HEADER_LENGTH

TOKENS = 64
"""Of a row."""
Tensors = Mapping[str, NDArray[Any]]


def feeds(batch: int) -> Tensors:
    """Return tokens of so many texts of 64 tokens."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 20_000, (batch, TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def binary(
    address: str, given: Tensors, model: str = NAME, headers: Mapping[str, str] | None = None
) -> Call:
    """Return a request of the Open Inference Protocol whose tensors follow the JSON in bytes."""
    tail = [to_bytes(values) for values in given.values()]
    entries = [
        {
            "name": name,
            "shape": list(values.shape),
            "datatype": datatype_of(values.dtype),
            "parameters": {"binary_data_size": len(raw)},
        }
        for (name, values), raw in zip(given.items(), tail, strict=True)
    ]
    document = {"inputs": entries, "parameters": {"binary_data_output": True}}
    head = json.dumps(document).encode()
    return Call(
        f"{address}/v2/models/{model}/infer",
        b"".join([head, *tail]),
        {
            HEADER_LENGTH: str(len(head)),
            "Content-Type": "application/octet-stream",
            **(headers or {}),
        },
    )


def as_json(
    address: str, given: Tensors, model: str = NAME, headers: Mapping[str, str] | None = None
) -> Call:
    """Return a request of the Open Inference Protocol in JSON alone."""
    entries = [
        {
            "name": name,
            "shape": list(values.shape),
            "datatype": datatype_of(values.dtype),
            "data": values.ravel().tolist(),
        }
        for name, values in given.items()
    ]
    body = json.dumps({"inputs": entries}).encode()
    told = {"Content-Type": "application/json", **(headers or {})}
    return Call(f"{address}/v2/models/{model}/infer", body, told)


def of_mlflow(address: str, given: Tensors) -> Call:
    """Return a request as `mlflow models serve` reads it."""
    document = {"inputs": {name: values.tolist() for name, values in given.items()}}
    body = json.dumps(document).encode()
    return Call(f"{address}/invocations", body, {"Content-Type": "application/json"})
