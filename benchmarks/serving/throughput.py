"""What the gateway adds to an engine: MiniLM's tokens in, an embedding out, beside other servers.

The bare session runs in one loop of one process, with the same threads as the gateway's. Clients,
server and engine share this machine's cores, so that what clients cost is taken from all servers
alike, and not from the bare loop.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from numpy.typing import NDArray
from starlette.applications import Starlette

from benchmarks.harness import ours, subject
from benchmarks.harness.table import Goal, ResultTable, column, reason
from benchmarks.serving.load import Call, TimedAnswers, ask
from infra.engines import open_target
from infra.gateway.datatypes import datatype_of, to_bytes
from infra.gateway.open_inference import HEADER_LENGTH

NAME = "minilm"
CLIENTS, QUICK_CLIENTS = (1, 4, 16, 64), (1, 8)
BATCHES, TOKENS = (1, 8), 64
SECONDS, QUICK_SECONDS = 8.0, 2.0
START_S = 120.0
BARE, GATEWAY, MLFLOW = "bare session", "gateway", "mlflow models serve"
GRANIAN, MLSERVER = "gateway on Granian", "MLServer"
PLAN, MLSERVER_PROGRAM = "BENCHMARK_PLAN", "MLSERVER_PROGRAM"
"""Variables: the plan that a server loads; MLServer's program, in an environment of its own."""
_MLSERVER_RUNTIME = """
import os

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class OnnxModel(MLModel):
    async def load(self):
        self._session = ort.InferenceSession(os.environ["BENCHMARK_PLAN"])
        return True

    async def predict(self, payload):
        feeds = {item.name: NumpyCodec.decode_input(item) for item in payload.inputs}
        names = [output.name for output in self._session.get_outputs()]
        outputs = [
            NumpyCodec.encode_output(name, values)
            for name, values in zip(names, self._session.run(names, feeds))
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""
"""MLServer has no runtime for ONNX on the package index: this is the shortest one."""
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ServingRow:
    """Figures of one server at one batch and number of clients."""

    name: str = column("server")
    batch: int = column("rows a request", "d")
    clients: int | None = column("clients", "d")
    rows: float | None = column("rows/s", ".0f")
    of_bare: float | None = column("of the bare session", ".2f")
    median: float | None = column("p50 ms", ".2f")
    worst: float | None = column("p99 ms", ".2f")
    failed: int | None = column("failed", "d")
    why: str | None = reason("why not")


def measure(quick: bool) -> ResultTable:
    """Measure the gateway and its peers on one plan."""
    chosen = subject.minilm(quick)
    plan = ours.quantize(chosen, "int8-smooth").lowered("u8")
    seconds = QUICK_SECONDS if quick else SECONDS
    rows: list[ServingRow] = []
    bare = {batch: _bare(plan, feeds(batch), seconds) for batch in BATCHES}
    rows += [_row(BARE, batch, None, answers, bare[batch]) for batch, answers in bare.items()]
    servers: tuple[tuple[str, Callable[[bytes], Any], Callable[..., Call]], ...] = (
        (GATEWAY, _gateway, _binary),
        (GRANIAN, _granian, _binary),
        (MLSERVER, _mlserver, _json),
        (MLFLOW, _mlflow, _mlflow_call),
    )
    for name, start, make in servers:
        try:
            with start(plan) as address:
                for batch in BATCHES:
                    call = make(address, feeds(batch))
                    ask(call, 2, 1.0)
                    for clients in QUICK_CLIENTS if quick else CLIENTS:
                        answers = ask(call, clients, seconds)
                        rows.append(_row(name, batch, clients, answers, bare[batch]))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            rows.append(ServingRow(name, 0, None, None, None, None, None, None, str(error)))
    return ResultTable(
        "serving",
        f"MiniLM in INT8 over HTTP, {TOKENS} tokens a row, clients on the same cores",
        rows,
        _goals(rows),
    )


def feeds(batch: int) -> Tensors:
    """Return tokens of so many texts of 64 tokens."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 20_000, (batch, TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _bare(plan: bytes, given: Tensors, seconds: float) -> TimedAnswers:
    """Run the engine in a loop."""
    engine, taken = open_target("onnxruntime-cpu").load(plan), list[float]()
    engine.run(given)
    started = time.perf_counter()
    while time.perf_counter() < started + seconds:
        began = time.perf_counter()
        engine.run(given)
        taken.append(time.perf_counter() - began)
    return TimedAnswers(np.array(taken), time.perf_counter() - started, ())


def _row(
    name: str, batch: int, clients: int | None, answers: TimedAnswers, bare: TimedAnswers
) -> ServingRow:
    return ServingRow(
        name,
        batch,
        clients,
        answers.throughput * batch,
        answers.throughput / bare.throughput,
        answers.milliseconds(50),
        answers.milliseconds(99),
        len(answers.failures),
        answers.failures[0] if answers.failures else None,
    )


def _goals(rows: list[ServingRow]) -> tuple[Goal, ...]:
    def best(name: str, batch: int) -> float | None:
        reached = [row.of_bare or 0.0 for row in rows if (row.name, row.batch) == (name, batch)]
        return max(reached, default=None)

    def added(batch: int) -> float | None:
        bare = next(row.median for row in rows if (row.name, row.batch) == (BARE, batch))
        low = [
            row.median
            for row in rows
            if (row.name, row.batch, row.clients) == (GATEWAY, batch, 1) and row.median
        ]
        return low[0] - bare if low and bare else None

    goals = []
    for batch in BATCHES:
        of, peer, other = (best(name, batch) for name in (GATEWAY, MLFLOW, MLSERVER))
        rows_a_request = f"{batch} row{'s' * (batch > 1)} a request"
        goals += [
            Goal(f"{rows_a_request}, of the bare session's throughput:", 0.85, of),
            Goal(f"{rows_a_request}, p50 added at one client, ms:", 1.5, added(batch), "at most"),
            Goal(
                f"{rows_a_request}, times mlflow models serve:",
                5.0,
                of / peer if of and peer else None,
            ),
            Goal(f"{rows_a_request}, times MLServer:", 2.0, of / other if of and other else None),
        ]
    return tuple(goals)


def _binary(address: str, given: Tensors) -> Call:
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
        f"{address}/v2/models/{NAME}/infer",
        b"".join([head, *tail]),
        {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"},
    )


def _json(address: str, given: Tensors) -> Call:
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
    headers = {"Content-Type": "application/json"}
    return Call(f"{address}/v2/models/{NAME}/infer", body, headers)


def _mlflow_call(address: str, given: Tensors) -> Call:
    document = {"inputs": {name: values.tolist() for name, values in given.items()}}
    body = json.dumps(document).encode()
    return Call(f"{address}/invocations", body, {"Content-Type": "application/json"})


@contextmanager
def _gateway(plan: bytes) -> Iterator[str]:
    """Serve the plan by the product's own application, in a process of its own."""
    with _file(plan) as path, _process("benchmarks.serving.throughput", str(path)) as address:
        yield address


@contextmanager
def _granian(plan: bytes) -> Iterator[str]:
    """Serve the plan by the product's own application, on another server core."""
    factory = f"{__spec__.name if __spec__ else __name__}:application"
    command = (sys.executable, "-m", "granian", "--interface", "asgi", "--factory", factory)
    with (
        _file(plan) as path,
        _running(
            lambda port: (*command, "--host", "127.0.0.1", "--port", str(port)),
            "/v2/health/ready",
            {PLAN: str(path)},
        ) as address,
    ):
        yield address


@contextmanager
def _mlserver(plan: bytes) -> Iterator[str]:
    """Serve the plan by MLServer with one session, as its guide says for a custom runtime.

    Raises:
        RuntimeError: Its program was not named.
    """
    program = os.environ.get(MLSERVER_PROGRAM)
    if not program:
        raise RuntimeError(
            f"it wants another protobuf: install mlserver and onnxruntime in an environment of "
            f"their own, and set {MLSERVER_PROGRAM} to its program mlserver"
        )
    with _file(plan) as path:
        folder = path.parent
        (folder / "runtime.py").write_text(_MLSERVER_RUNTIME)
        settings = {"name": NAME, "implementation": "runtime.OnnxModel"}
        (folder / "model-settings.json").write_text(json.dumps(settings))

        def command(port: int) -> tuple[str, ...]:
            ports = {"http_port": port, "grpc_port": 0, "metrics_port": 0, "parallel_workers": 0}
            (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", **ports}))
            return (program, "start", str(folder))

        with _running(command, f"/v2/models/{NAME}/ready", {PLAN: str(path)}) as address:
            yield address


@contextmanager
def _mlflow(plan: bytes) -> Iterator[str]:
    """Serve the plan as MLflow does."""
    import mlflow.onnx

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        mlflow.onnx.save_model(onnx.load_from_string(plan), str(folder))
        program = shutil.which("mlflow", path=str(Path(sys.executable).parent)) or "mlflow"
        command = (program, "models", "serve", "-m", str(folder), "--env-manager", "local")
        with _running(lambda port: (*command, "-h", "127.0.0.1", "-p", str(port)), "/ping") as at:
            yield at


@contextmanager
def _file(plan: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.onnx"
        path.write_bytes(plan)
        yield path


@contextmanager
def _process(module: str, argument: str) -> Iterator[str]:
    command = (sys.executable, "-m", module, argument)
    with _running(lambda port: (*command, str(port)), "/v2/health/ready") as address:
        yield address


@contextmanager
def _running(
    command: Callable[[int], tuple[str, ...]],
    ready: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run a server on a free port of 127.0.0.1 until the block ends.

    Raises:
        RuntimeError: It does not answer in time.
    """
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    variables = {**os.environ, "PATH": beside, **(environment or {})}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with ExitStack() as stack, tempfile.TemporaryFile() as log:
        process = stack.enter_context(
            subprocess.Popen(command(port), stdout=log, stderr=subprocess.STDOUT, env=variables)
        )
        stack.callback(process.kill)
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        while not _answers(address + ready):
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise RuntimeError(f"it did not start: {log.read()[-300:]!r}")
            time.sleep(0.2)
        yield address
        process.terminate()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def application() -> Starlette:
    """Return the gateway's application over the plan that the environment names."""
    return _application(Path(os.environ[PLAN]))


def serve(path: Path, port: int) -> None:
    """Serve a plan by the gateway's application, without a ledger, in this process."""
    import uvicorn

    uvicorn.run(
        _application(path), host="127.0.0.1", port=port, log_level="warning", access_log=False
    )


def _application(path: Path) -> Starlette:
    from flows.gateway.fronts import TensorFront
    from infra.gateway.application import Gateway
    from infra.gateway.batching import DynamicBatcher
    from infra.gateway.endpoint import Endpoint
    from infra.gateway.metrics import GatewayMetrics
    from infra.gateway.release import ServedRelease
    from infra.gateway.signature import read_signature

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
