"""Servers of one plan, each in a process of its own: the gateway and its peers."""

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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import onnx
import psutil

from benchmarks.serving import plan_gateway
from benchmarks.serving.plan_gateway import NAME, PLAN

START_S, STOP_S = 120.0, 10.0
READY = "/v2/health/ready"
MLSERVER_PROGRAM = "MLSERVER_PROGRAM"
"""The variable that names MLServer's program, in an environment of its own."""
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


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    address: str  # http://127.0.0.1:PORT
    pid: int

    @property
    def cpu_seconds(self) -> float:
        """Return the CPU time that it and its children took so far."""
        process = psutil.Process(self.pid)
        times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
        return float(sum(each.user + each.system for each in times))


@contextmanager
def gateway(plan: bytes) -> Iterator[Server]:
    """Serve the plan by the product's own application, in a process of its own."""
    command = (sys.executable, "-m", plan_gateway.__name__)
    with (
        _file(plan) as path,
        running(lambda port: (*command, str(path), str(port)), READY) as server,
    ):
        yield server


@contextmanager
def two_workers(plan: bytes) -> Iterator[Server]:
    """Serve the plan by two processes of the product's own application, behind one port."""
    factory = f"{plan_gateway.__name__}:application"
    command = (sys.executable, "-m", "uvicorn", "--factory", factory, "--workers", "2")
    quiet = ("--no-access-log", "--log-level", "warning")
    with (
        _file(plan) as path,
        running(
            lambda port: (*command, *quiet, "--port", str(port)), READY, {PLAN: str(path)}
        ) as server,
    ):
        yield server


@contextmanager
def granian(plan: bytes) -> Iterator[Server]:
    """Serve the plan by the product's own application, on another server core."""
    factory = f"{plan_gateway.__name__}:application"
    command = (sys.executable, "-m", "granian", "--interface", "asgi", "--factory", factory)
    with (
        _file(plan) as path,
        running(
            lambda port: (*command, "--host", "127.0.0.1", "--port", str(port)),
            READY,
            {PLAN: str(path)},
        ) as server,
    ):
        yield server


@contextmanager
def mlserver(plan: bytes) -> Iterator[Server]:
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

        with running(command, f"/v2/models/{NAME}/ready", {PLAN: str(path)}) as server:
            yield server


@contextmanager
def mlflow(plan: bytes) -> Iterator[Server]:
    """Serve the plan as MLflow does."""
    import mlflow.onnx

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        mlflow.onnx.save_model(onnx.load_from_string(plan), str(folder))
        program = shutil.which("mlflow", path=str(Path(sys.executable).parent)) or "mlflow"
        command = (program, "models", "serve", "-m", str(folder), "--env-manager", "local")
        with running(
            lambda port: (*command, "-h", "127.0.0.1", "-p", str(port)), "/ping"
        ) as server:
            yield server


@contextmanager
def _file(plan: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.onnx"
        path.write_bytes(plan)
        yield path


@contextmanager
def running(
    command: Callable[[int], tuple[str, ...]],
    ready: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
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
        stack.callback(_stop, process)
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        while not _answers(address + ready):
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise RuntimeError(f"it did not start: {log.read()[-300:]!r}")
            time.sleep(0.2)
        yield Server(address, process.pid)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to stop, as only then it ends the workers that it started; else kill it."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    process.kill()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
