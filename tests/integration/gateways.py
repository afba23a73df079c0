"""A gateway in a process of its own, for tests of what it serves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import yaml
from numpy.typing import NDArray

from flows.orchestration.services import GATEWAY, listen, started
from infra.settings import Settings
from tasks.promotion.acts.promoting import promote
from tests.integration.releases import released

WITHIN_S = 20.0
EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that answers, and the ledger behind it."""

    settings: Settings
    address: str
    headers: dict[str, str]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.address}{path}", headers=self.headers)

    def version(self, model: str = "ranker") -> str:
        return str(self.get(f"/v2/models/{model}").json().get("versions", [""])[0])

    def metric(self, line: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return next((float(item.split()[-1]) for item in lines if item.startswith(line)), 0.0)

    def infer(
        self,
        model: str,
        name: str,
        values: NDArray[Any],
        headers: Mapping[str, str] | None = None,
        **parameters: str,
    ) -> httpx.Response:
        """Ask about one tensor of floats."""
        tensor = {"name": name, "shape": list(values.shape), "datatype": "FP32"}
        body = {"inputs": [{**tensor, "data": values.tolist()}], "parameters": parameters}
        return httpx.post(
            f"{self.address}/v2/models/{model}/infer",
            json=body,
            headers={**self.headers, **(headers or {})},
        )


def until(holds: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Wait until something holds, or fail."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.05)


@contextmanager
def serving(settings: Settings, **environment: str) -> Iterator[Served]:
    """Serve what is registered, once all of it answers."""
    opened = listen(settings.model_copy(update={"gateway_port": 0}), GATEWAY)
    with started(settings, {GATEWAY: opened}, environment=environment) as (gateway,):
        headers = {"Authorization": f"Bearer {settings.secret().key}"}
        served = Served(settings, gateway.address, headers)
        until(lambda: served.get("/v2/health/ready").status_code == 200)
        yield served


def register_itself(settings: Settings, registry: Path, **changes: Any) -> None:
    """Register digits, with changes to its spec; its champion is full precision itself."""
    from tasks.models.catalog import register

    settings.root.mkdir(parents=True, exist_ok=True)
    shutil.copy(registry, settings.root / "mlflow.db")
    source = write_example(settings.root / "source", "digits", **changes)
    plan = bytes(register(source).graph.SerializeToString())
    promote(released(settings, 0.0, "digits", plan=plan), None, "tester", "it passed")


@contextmanager
def serving_itself(
    settings: Settings, registry: Path, options: Mapping[str, Any]
) -> Iterator[Served]:
    """Serve digits whose champion is full precision itself, under a spec's `serving` section."""
    register_itself(settings, registry, serving=options)
    with serving(settings, REQUANT_GATEWAY_CAPTURE="0") as served:
        yield served


def write_example(folder: Path, example: str, **changes: Any) -> Path:
    """Copy an example, with changes to its spec."""
    shutil.copytree(EXAMPLES / example, folder)
    path = folder / "model.yaml"
    document = yaml.safe_load(path.read_text())
    document.update({"targets": ["onnxruntime-cpu"], **changes})
    path.write_text(yaml.safe_dump(document))
    return path


def spoilt(graph: onnx.ModelProto, noise: float, *, seed: int = 0) -> bytes:
    """Return a graph whose weights have noise of so many times their own spread."""
    from onnx import numpy_helper

    rng = np.random.default_rng(seed)
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    for item in model.graph.initializer:
        values = numpy_helper.to_array(item)
        if values.dtype == np.float32 and values.ndim > 1:
            drawn = rng.standard_normal(values.shape) * values.std() * noise
            changed = numpy_helper.from_array((values + drawn).astype(np.float32), item.name)
            item.CopyFrom(changed)
    return bytes(model.SerializeToString())
