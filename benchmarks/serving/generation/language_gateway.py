"""The product's own application over one language model's plan, in a process of its own.

`python -m benchmarks.serving.generation.language_gateway FOLDER CHECKPOINT PORT` serves the
folder's `plan.onnx`, registered as its `spec.json` says, with the tokenizer of the checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import uvicorn

from flows.gateway.fronts import open_front
from flows.gateway.openai_api.completions import completion_routes
from infra.engines import open_target
from infra.gateway.application import Gateway
from infra.gateway.batching import DynamicBatcher
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.wire.signature import read_signature
from tasks.models.inputs import open_inputs
from tasks.specs.spec import ModelSpec

NAME = "chat"


def serve(folder: Path, checkpoint: Path, port: int) -> None:
    """Serve a plan in this process."""
    plan, metrics = (folder / "plan.onnx").read_bytes(), GatewayMetrics()
    spec = ModelSpec.model_validate_json((folder / "spec.json").read_bytes())
    tokenizer = (checkpoint / "tokenizer.json").read_bytes()
    inputs = open_inputs(spec, tokenizer, onnx.load_from_string(plan))
    engine = open_target("onnxruntime-cpu").load(plan)
    front = open_front(spec, inputs, None, engine)
    endpoint = Endpoint(NAME, DynamicBatcher(NAME, metrics), metrics)
    endpoint.publish(
        ServedRelease(NAME, "1", "0" * 64, "onnxruntime-cpu", engine, read_signature(plan), front)
    )
    gateway = Gateway({NAME: endpoint}, metrics, "benchmark")
    application = gateway.application(routes=completion_routes(gateway))
    uvicorn.run(application, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
