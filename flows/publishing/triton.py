"""A champion goes to a Triton model repository, and is tried there before it is switched to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from flows.publishing.champion import PublishedFiles, champions_files
from infra.engines import open_target
from infra.errors import Refused, Unavailable
from infra.gateway.wire.datatypes import datatype_of
from infra.settings import settings
from infra.stores import open_store
from infra.stores.port import ObjectStore
from tasks.models.catalog import open_model
from tasks.publishing.triton import PLAN, config, place_config, place_version, served_versions

SMOKE_CASES = 4
CLOSE = 1e-2
"""Of the largest output: what Triton's runtime may answer otherwise than the one here."""
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Publication:
    """What was published."""

    model: str
    version: str
    where: str
    serving: tuple[int, ...]  # versions that the configuration names
    tried: bool  # whether a server answered golden cases with it before it was switched to


def publish_triton(model: str, to: str, server: str | None = None) -> Publication:
    """Write the champion's version directory and then the configuration; with a server, try it.

    A server's old versions answer until the new one has answered golden cases; then they retire,
    and their directories stay. Without a server the version that was served last stays beside.

    Args:
        model: Whose champion.
        to: The repository: a folder, or s3://bucket/prefix.
        server: Address of a Triton in explicit mode that serves this repository; None: there is
            none to ask.

    Raises:
        NotFound: There is no champion.
        Refused: Other bytes lie in the version's directory, or the server answers otherwise than
            the engine here.
        Unavailable: The repository or the server does not answer.
    """
    files, chosen = champions_files(model), settings()
    store = open_store(to, endpoint_url=chosen.s3_endpoint_url, region=chosen.s3_region)
    before = served_versions(store, model)
    version = place_version(
        store, model, files.reference.version, {**files.weights, PLAN: files.plan}
    )
    last = [number for number in before if number != version][-1:]
    _configure(store, files, (*last, version))
    if server is None:
        return Publication(model, str(version), to, (*last, version), tried=False)
    triton = _Triton(server, model)
    try:
        triton.load()
        triton.require_answers(files, version)
    except (Refused, Unavailable):
        if last:
            _configure(store, files, tuple(last))
            triton.load()
        raise
    _configure(store, files, (version,))
    triton.load()
    return Publication(model, str(version), to, (version,), tried=True)


def _configure(store: ObjectStore, files: PublishedFiles, versions: tuple[int, ...]) -> None:
    model = files.reference.model
    place_config(store, model, config(model, files.signature, versions))


class _Triton:
    """A server, asked over its repository extension and the Open Inference Protocol."""

    def __init__(self, address: str, model: str) -> None:
        self._address, self._model = address.rstrip("/"), model

    def load(self) -> None:
        """Let the server read the repository again."""
        self._post(f"/v2/repository/models/{self._model}/load", {})

    def require_answers(self, files: PublishedFiles, version: int) -> None:
        """Raise `Refused` where golden cases are answered otherwise than by the engine here."""
        inputs = open_model(self._model).inputs
        payloads = [case.payload for case in open_model(self._model).golden.cases[:SMOKE_CASES]]
        engine = open_target("onnxruntime-cpu").load(files.plan)
        for batch in inputs.batches(payloads):
            expected = engine.run(batch.feeds)[inputs.output]
            answered = self._answer(version, batch.feeds, inputs.output)
            limit = CLOSE * max(float(np.abs(expected).max(initial=0.0)), 1e-6)
            if answered.size != expected.size or not (
                np.abs(answered - expected.ravel()).max(initial=0.0) <= limit
            ):
                raise Refused(
                    f"version {version} of {self._model} answers golden cases on {self._address} "
                    "otherwise than here: the version before serves on"
                )

    def _answer(
        self, version: int, feeds: Mapping[str, NDArray[Any]], output: str
    ) -> NDArray[np.float64]:
        tensors = [
            {
                "name": name,
                "shape": list(values.shape),
                "datatype": datatype_of(values.dtype),
                "data": values.ravel().tolist(),
            }
            for name, values in feeds.items()
        ]
        path = f"/v2/models/{self._model}/versions/{version}/infer"
        answer = self._post(path, {"inputs": tensors, "outputs": [{"name": output}]})
        try:
            (found,) = (item for item in answer["outputs"] if item["name"] == output)
            return np.asarray(found["data"], np.float64).ravel()
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"{self._address}{path} answered no tensor {output}") from error

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            answer = httpx.post(f"{self._address}{path}", json=body, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._address} does not answer ({error})") from error
        if answer.status_code != 200:
            raise Refused(f"{self._address}{path} said {answer.status_code}: {answer.text[:300]}")
        return answer.json() if answer.content else {}
