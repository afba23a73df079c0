"""ONNX Runtime on the CPU: built, validated and served on any machine."""

import json
from collections import Counter

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from infra.engines.port import Arrays, Built, Engine, Profile
from infra.errors import BadInput, Refused

_FAILURES = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NotImplemented,
    state.RuntimeException,
)


class OnnxRuntimeCpu:
    """The plan is the graph in the form that ONNX Runtime fuses; it is optimized again for the loading CPU."""

    name = "onnxruntime-cpu"
    form = "u8"

    def why_not_executable(self) -> str | None:
        """Always executable."""
        return None

    def build(self, graph: bytes, profile: Profile) -> Built:
        """Check that the runtime accepts the graph; any shape is allowed, so the profile is not needed."""
        try:
            session = _session(graph)
        except _FAILURES as exc:
            raise Refused(f"ONNX Runtime cannot load the graph: {_first_line(exc)}") from exc
        return Built(graph, _describe(session, graph))

    def load(self, plan: bytes) -> Engine:
        """A session over the plan."""
        try:
            return OnnxRuntimeEngine(_session(plan))
        except _FAILURES as exc:
            raise BadInput(f"this is not an ONNX Runtime plan ({_first_line(exc)}): rebuild the release") from exc


class OnnxRuntimeEngine:
    """A session, with its failures translated."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._inputs = {item.name for item in session.get_inputs()}
        self._outputs = [item.name for item in session.get_outputs()]

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Feeds the graph does not declare are left out (an attention mask that the export folded away)."""
        try:
            values = self._session.run(self._outputs, {k: v for k, v in feeds.items() if k in self._inputs})
        except (*_FAILURES, ValueError) as exc:
            raise BadInput(f"the engine refused its inputs: {_first_line(exc)}") from exc
        return dict(zip(self._outputs, values, strict=True))


def _session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _describe(session: ort.InferenceSession, graph: bytes) -> bytes:
    """Operator counts of the graph as the runtime optimized it."""
    del session
    import onnx

    return json.dumps(Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)).encode()


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[0][:300]
