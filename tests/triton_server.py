"""A small Triton in explicit mode: it reads a real repository by Triton's own configuration."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
from google.protobuf import text_format


def messages(name: str) -> ModuleType:
    """Load one module of tritonclient's messages, without its client, which wants another gRPC."""
    import tritonclient

    path = Path(str(tritonclient.__path__[0])) / "grpc" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_config(repository: Path, model: str) -> Any:
    """Parse a configuration by Triton's own message; raises where Triton would."""
    text = (repository / model / "config.pbtxt").read_text()
    return text_format.Parse(text, messages("model_config_pb2").ModelConfig())


@dataclass(slots=True)
class TritonServer:
    """What is loaded, and which versions answered."""

    repository: Path
    sessions: dict[int, ort.InferenceSession] = field(default_factory=dict)
    loads: list[tuple[int, ...]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)  # versions that answer nonsense
    address: str = ""

    def load(self, model: str) -> None:
        config = read_config(self.repository, model)
        versions = tuple(config.version_policy.specific.versions)
        self.sessions = {
            version: ort.InferenceSession(
                str(self.repository / model / str(version) / "model.onnx"),
                providers=["CPUExecutionProvider"],
            )
            for version in versions
        }
        for session in self.sessions.values():
            declared = {item.name: item for item in session.get_inputs()}
            assert set(declared) == {item.name for item in config.input}
            for item in config.input:
                batch = 1 if config.max_batch_size else 0
                assert len(item.dims) + batch == len(declared[item.name].shape)
        self.loads.append(versions)

    def infer(self, version: int, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(version)
        types = {"FP32": np.float32, "INT64": np.int64, "INT32": np.int32}
        feeds = {
            item["name"]: np.array(item["data"], types[item["datatype"]]).reshape(item["shape"])
            for item in body["inputs"]
        }
        names = [item["name"] for item in body["outputs"]]
        outputs = self.sessions[version].run(names, feeds)
        shift = 1e3 * (version in self.broken)
        rendered = [
            {"name": name, "shape": list(values.shape), "data": (values + shift).ravel().tolist()}
            for name, values in zip(names, outputs, strict=True)
        ]
        return {"outputs": rendered}


@contextmanager
def serving(repository: Path) -> Iterator[TritonServer]:
    """Answer over HTTP until the block ends."""
    triton = TritonServer(repository)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            answer: dict[str, Any] = {}
            status = 200
            try:
                if match := re.fullmatch(r"/v2/repository/models/(.+)/load", self.path):
                    triton.load(match[1])
                elif match := re.fullmatch(r"/v2/models/.+/versions/(\d+)/infer", self.path):
                    answer = triton.infer(int(match[1]), body)
                else:
                    status = 404
            except Exception as error:
                status, answer = 400, {"error": repr(error)}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    triton.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield triton
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
