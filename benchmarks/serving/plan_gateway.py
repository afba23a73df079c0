"""The product's own application over one plan, without a ledger, in a process of its own.

`python -m benchmarks.serving.plan_gateway PLAN PORT` serves tensors.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from starlette.applications import Starlette

from flows.gateway.fronts import TensorFront
from infra.engines import open_target
from infra.gateway.application import Gateway
from infra.gateway.batching import DynamicBatcher
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.wire.signature import read_signature

NAME = "minilm"
PLAN = "BENCHMARK_PLAN"
"""The variable that names the plan which a server loads."""


def application() -> Starlette:
    """Return the gateway's application over the plan that the environment names."""
    return _application(Path(os.environ[PLAN]))


def serve(path: Path, port: int) -> None:
    """Serve a plan by the gateway's application in this process."""
    import uvicorn

    uvicorn.run(
        _application(path), host="127.0.0.1", port=port, log_level="warning", access_log=False
    )


def _application(path: Path) -> Starlette:
    plan, metrics = path.read_bytes(), GatewayMetrics()
    engine = open_target("onnxruntime-cpu").load(plan)
    endpoint = Endpoint(NAME, DynamicBatcher(NAME, metrics), metrics)
    signature = read_signature(plan)
    endpoint.publish(
        ServedRelease(NAME, "1", "0" * 64, "onnxruntime-cpu", engine, signature, TensorFront())
    )
    return Gateway({NAME: endpoint}, metrics, "benchmark").application()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
