"""A workspace whose champions are served by the gateway as `requant serve` starts it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import yaml

from benchmarks.harness import ours, subject
from benchmarks.harness.subject import EXAMPLES
from benchmarks.serving.calls import Tensors
from benchmarks.serving.servers import START_S, Server
from flows.orchestration.services import GATEWAY, listen, started
from infra.registry.numbers import Numbers
from infra.releases import write_release
from infra.settings import Settings, settings, use_workspace
from tasks.models.catalog import register
from tasks.promotion import journal
from tasks.promotion.ledger import highest_number
from tasks.promotion.release import CPU_PLAN, GRAPH
from tasks.records import ReleaseRef
from tasks.traffic.storage.parts import read_part
from tasks.traffic.storage.scan import parts_between


@dataclass(frozen=True, slots=True)
class ServedWorkspace:
    """A gateway that answers, and the key it wants."""

    server: Server
    headers: dict[str, str]

    @property
    def address(self) -> str:
        """Return where it listens: http://127.0.0.1:PORT."""
        return self.server.address


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """An example, a plan of it, and what clients ask."""

    name: str
    plan: bytes
    tensors: Tensors


def served_model(quick: bool) -> ServedModel:
    """Return MiniLM in INT8, asked about one text; quick: the digits in full precision."""
    if quick:
        image = np.zeros((1, 1, 8, 8), np.float32)
        return ServedModel("digits", subject.digits(quick).source, {"image": image})
    plan = ours.quantize(subject.minilm(quick), "int8-smooth").lowered("u8")
    text = np.array(["Which scales drift, and what wins the quality back?"], object)
    return ServedModel("minilm", plan, {"text": text})


@contextmanager
def registered(example: str, **sections: object) -> Iterator[Settings]:
    """Register an example in a workspace of its own, which is gone afterwards.

    Args:
        example: Its folder.
        sections: Of the spec, in the place of the example's own.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        try:
            chosen = use_workspace(Path(folder) / "workspace")
            source = Path(shutil.copytree(EXAMPLES / example, Path(folder) / example))
            spec = yaml.safe_load((source / "model.yaml").read_text())
            (source / "model.yaml").write_text(yaml.safe_dump(spec | sections))
            register(source / "model.yaml")
            yield chosen
        finally:
            os.environ.clear()
            os.environ.update(before)
            settings.cache_clear()


def release(chosen: Settings, model: str, plan: bytes) -> ReleaseRef:
    """Write, sign and register a release of one plan of ONNX Runtime."""
    files = {GRAPH: plan, CPU_PLAN: plan}
    facts = {"verdicts": {"onnxruntime-cpu": "passed"}}
    written = write_release(chosen.store(), model, files, dict(facts), chosen.signer())
    version = chosen.registry().register(
        model,
        plan,
        release=written.digest,
        tags={},
        run_name="benchmark",
        metrics={},
        params={},
        artifacts={},
        numbers=Numbers(highest=highest_number(journal.read(model))),
    )
    return ReleaseRef(written.model, version, written.digest)


@contextmanager
def serving(chosen: Settings, **environment: str) -> Iterator[ServedWorkspace]:
    """Serve a workspace on a free port, once every champion answers.

    Raises:
        TimeoutError: One does not.
    """
    opened = listen(chosen.model_copy(update={"gateway_port": 0}), GATEWAY)
    with started(chosen, {GATEWAY: opened}, environment=environment) as (gateway,):
        headers = {"Authorization": f"Bearer {chosen.secret().key}"}
        deadline = time.monotonic() + START_S
        while httpx.get(f"{gateway.address}/v2/health/ready", headers=headers).status_code != 200:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the gateway has no champion after {START_S:g} s")
            time.sleep(0.1)
        yield ServedWorkspace(Server(gateway.address, gateway.process.pid), headers)


def stored_ids(chosen: Settings, model: str) -> list[str]:
    """Return the ids of all requests in a model's traffic."""
    store = chosen.store()
    keys = parts_between(store, model, None, None)
    return [str(row.request_id) for key in keys for row in read_part(store, key)]
